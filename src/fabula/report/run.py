"""What happened, as one page: reads the JSON of a run folder and writes `report/index.html` beside it.

The page is complete in itself: style, script and drawings are inside, and its own content policy forbids any
request and any script but ours. It can be written at any time; of a run that is stopped or still going it
shows what there is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from fabula import storage
from fabula.config import setting
from fabula.errors import ConfigError, InputError
from fabula.report import page, reading


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How the page is drawn."""

    points: int = setting(1000, "most points of one curve; least and greatest values are kept")
    axis: Literal["time", "tokens", "steps"] = setting("time", "what the curves are shown over at first")

    def __post_init__(self) -> None:
        if not 10 <= self.points <= 100_000:
            raise ConfigError([f"points: must be from 10 to 100,000, got {self.points:,}"])


def run(run_folder: Path, config: ReportConfig | None = None) -> Path:
    """Write the page of a run; returns its path. InputError when there is no such folder."""
    if not run_folder.is_dir():
        raise InputError(f"{run_folder}: no such run folder")
    path = run_folder / "report" / "index.html"
    storage.write_text(path, render(reading.read(run_folder), config or ReportConfig()))
    return path


def render(records: reading.Records, config: ReportConfig) -> str:
    """The page as text; equal records give equal pages."""
    return compose("page.html.j2", page.describe(records, config.points, config.axis), ["page.css"])


def compose(template: str, values: Mapping[str, Any], styles: Sequence[str]) -> str:
    """A page with its style and script inside, and a policy that admits no other."""
    style, script = "".join(_asset(name) for name in styles), _asset("page.js")
    html = _template(template).render(
        **values,
        style=Markup(style),
        script=Markup(script),
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
    )
    return printable(html)


def printable(text: str) -> str:
    """Text with nothing in it that a page cannot hold: control characters become their pictures.

    >>> printable("a" + chr(27) + "[31m" + chr(0xD800))
    'a␛[31m\ufffd'
    """
    return _CONTROL.sub(lambda found: _picture(ord(found[0])), text.replace("\r\n", "\n"))


# Controls but tab and newline, the second control block, lone surrogates, noncharacters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


@cache
def _template(name: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_asset))
    return environment.get_template(name)


@cache
def _asset(name: str) -> str:
    return resources.files("fabula.report").joinpath(name).read_text("utf-8")


def _content_hash(text: str) -> str:
    """The hash by which a content policy admits an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
