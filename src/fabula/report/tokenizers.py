"""Tokenizers on a text, as one page: of the JSON of `fabula tokenizer report` and `fabula tokenizer compare`.

One tokenizer and several have the same page: a column each. It is complete in itself and loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from fabula.config import Data
from fabula.report import charts, wording
from fabula.report.comparison import flops
from fabula.report.run import compose
from fabula.report.tokens import colour

# Groups of text that are shown of each sort, and classes v0 .. v7 of the style sheet.
_SHOWN, _COLOURS = 12, 8

Say = Callable[[float], str]


def render(data: Data) -> str:
    """The page as text; equal data give equal pages."""
    return compose("tokenizers.html.j2", describe(data), ["page.css", "comparison.css", "tokens.css"])


def describe(data: Data) -> dict[str, Any]:
    """The values for the template."""
    rows, text = data["tokenizers"], data["text"]
    names, sources = [row["name"] for row in rows], [group["name"] for group in rows[0]["domains"]]
    alone = len(rows) == 1
    return {
        "kicker": "Report on a tokenizer" if alone else "Tokenizers side by side",
        "title": names[0] if alone else " · ".join(names) if len(names) < 4 else f"{len(names)} tokenizers",
        "fabula": data["fabula"],
        "names": names,
        "sentence": (
            f"Measured on {wording.plural(text['documents'], 'document')} of {', '.join(endings(sources).values())}: "
            f"{wording.size(text['bytes'])}, {wording.plural(text['words'], 'word')}."
        ),
        "warnings": _warnings(rows),
        "notes": _notes(data),
        "main": _main(data),
        "training": None if data["training"] is None else _training(data["training"]),
        "where": [_groups_of_one(title, rows[0][key]) for title, key in _sorts(rows)] if alone else _where(rows),
        "vocabularies": [_vocabulary(row, data["rare"]) for row in rows],
        "costs": _costs_of_one(rows[0]) if alone else _costs(rows),
    }


def _warnings(rows: Sequence[Data]) -> list[str]:
    """Each once: by itself where all have it, else behind those that do."""
    said = [(row["name"], sentence) for row in rows for sentence in row["warnings"]]
    made = []
    for sentence in dict.fromkeys(text for _, text in said):
        who = [name for name, text in said if text == sentence]
        made.append(sentence if len(who) == len(rows) else f"{', '.join(who)}: {sentence}")
    return [sentence[:1].upper() + sentence[1:] if len(rows) == 1 else sentence for sentence in made]


def _notes(data: Data) -> list[str]:
    text = data["text"]
    notes = [f"The text has the SHA-256 {text['sha256'][:16]}."]
    if text["cut"]:
        notes.append(
            f"A part of {', '.join(text['cut'])}, chosen evenly: at most {wording.size(text['most_bytes'])} are "
            "measured."
        )
    if text["unreadable"]:
        notes.append(f"{wording.plural(text['unreadable'], 'record')} cannot be read and are left out.")
    if not text["languages_told"]:
        notes.append("Languages are not told apart: the extra fabula[corpus] is not installed.")
    notes.append("Speed: all cores of the machine that measured, with whatever else it did. Indicative only.")
    return notes


# ---- figures -------------------------------------------------------------------------------------------------


def _main(data: Data) -> list[Data]:
    rows, rare, its = data["tokenizers"], data["rare"], "of the vocabulary"

    def of(label: str, value: Callable[[Data], float], say: Say, **more: Any) -> Data:
        return _figure(label, [value(row) for row in rows], say, **more)

    made = [
        of("vocabulary", lambda r: r["vocab_size"], wording.exact),
        of("tokens of the text", lambda r: r["tokens"], wording.exact),
        of("bytes a token", lambda r: r["bytes_per_token"], _three, bars=True),
        of("characters a token", lambda r: r["characters_per_token"], _three),
        of("tokens a word", lambda r: r["tokens_per_word"], _three, bars=True),
        of("tokens of several words", lambda r: r["multi_word"]["vocabulary_share"], wording.percent, note=its),
        of("of the text's tokens", lambda r: r["multi_word"]["text_share"], wording.percent, part=True),
        of("of the text's bytes", lambda r: r["multi_word"]["bytes_share"], wording.percent, part=True),
        of("tokens of one byte", lambda r: r["single_byte_share"], wording.percent, note="of the text's tokens"),
        of("unused in this text", lambda r: r["unused"]["vocabulary_share"], wording.percent, note=its),
        of(f"rare: 1 to {rare - 1} times", lambda r: r["rare"]["vocabulary_share"], wording.percent, part=True),
        of("Rényi efficiency", lambda r: r["renyi_efficiency"], _three),
    ]
    for number, kind in enumerate(rows[0]["artefacts"]):
        values = [row["artefacts"][number]["tokens"] for row in rows]
        if any(values):
            made.append(_figure(kind["says"], values, wording.exact, note="tokens of the vocabulary"))
    speeds = [row["speed"]["bytes_per_second"] for row in rows]
    made.append(_figure("encoding, a second", speeds, wording.size, note="here and now"))
    return made


def _figure(
    label: str, values: Sequence[float | None], say: Say, *, bars: bool = False, part: bool = False, note: str = ""
) -> Data:
    most = max((value for value in values if value is not None), default=0.0)
    cells = []
    for value in values:
        drawn = bars and len(values) > 1 and value is not None and most > 0
        cells.append(
            {
                "text": wording.UNKNOWN if value is None else say(value),
                "bar": Markup(_bar((value or 0.0) / most)) if drawn else "",
            }
        )
    return {"label": label, "note": note, "part": part, "cells": cells}


def _bar(share: float) -> str:
    return f'<svg aria-hidden="true"><rect width="{100 * share:.2f}%" height="100%"/></svg>'


def _three(value: float) -> str:
    return f"{value:.3f}"


def _where(rows: Sequence[Data]) -> list[Data]:
    """Groups of the text: bytes a token, then tokens a word; of scripts also the characters that are cut."""
    made = []
    for title, key in _sorts(rows):
        names = [group["name"] for group in rows[0][key]]
        found = [{group["name"]: group for group in row[key]} for row in rows]
        labels = endings(names) if key == "domains" else {}
        figures = []
        for name in names[:_SHOWN]:
            groups = [of.get(name) for of in found]

            def values(key: str, groups: Sequence[Data | None] = groups) -> list[float | None]:
                return [None if group is None else group[key] for group in groups]

            size = next(group["bytes"] for group in groups if group is not None)
            label = labels.get(name, name)
            figures.append(_figure(label, values("bytes_per_token"), _three, bars=True, note=wording.size(size)))
            if any(value is not None for value in values("tokens_per_word")):
                figures.append(_figure("tokens a word", values("tokens_per_word"), _three, part=True))
            if key == "scripts" and any(values("cut_share")):
                figures.append(_figure("characters that are cut", values("cut_share"), wording.percent, part=True))
        header = [row["name"] for row in rows]
        made.append({"title": title, "header": header, "rows": figures, "more": _more(names)})
    return made


def _sorts(rows: Sequence[Data]) -> list[tuple[str, str]]:
    """What the text is divided by, where there is something to divide."""
    sorts = (("source", "domains"), ("language", "languages"), ("script", "scripts"))
    return [(title, key) for title, key in sorts if len(rows[0][key]) > 1 or key == "scripts"]


def _more(names: Sequence[Any]) -> str:
    left = len(names) - _SHOWN
    return f"And {left} more with less text; the JSON has all." if left > 0 else ""


def _groups_of_one(title: str, groups: Sequence[Data]) -> Data:
    """Groups of the text down, the figures of the one tokenizer across."""
    names: list[str] = [group["name"] for group in groups]
    labels = endings(names) if title == "source" else dict(zip(names, names, strict=True))
    rows = []
    for group in groups[:_SHOWN]:
        per = [group[key] for key in ("bytes_per_token", "characters_per_token", "tokens_per_word")]
        cells = [wording.size(group["bytes"]), *(wording.UNKNOWN if n is None else _three(n) for n in per)]
        if "cut_share" in group:
            cells.append(wording.percent(group["cut_share"]))
        rows.append(_line(labels[group["name"]], cells))
    header = ["text", "bytes a token", "characters a token", "tokens a word"]
    if title == "script":
        header.append("characters cut")
    return {"title": title, "header": header, "rows": rows, "more": _more(groups)}


def _costs_of_one(row: Data) -> list[Data]:
    rows = [
        _line(
            cost["preset"],
            [
                wording.exact(cost["parameters"]),
                wording.percent(cost["vocabulary_share"]),
                wording.percent(cost["vocabulary_flops_share"]),
                flops(cost["training_flops_per_byte"]),
                wording.exact(cost["context_tokens"]),
                wording.exact(cost["context_bytes"]),
                wording.exact(cost["context_words"]),
            ],
        )
        for cost in row["costs"]
    ]
    header = ["parameters", "vocabulary's", "its FLOPs", "FLOPs a byte", "context, tokens", "bytes", "words"]
    return [{"title": "model", "header": header, "rows": rows}] if rows else []


def _line(label: str, cells: Sequence[str]) -> Data:
    return {
        "label": label,
        "note": "",
        "part": False,
        "cells": [{"text": cell, "bar": ""} for cell in cells],
    }


def endings(names: Sequence[str]) -> dict[str, str]:
    """What sources are called without the folders that they have in common.

    >>> endings(["texts/es/a.txt", "texts/en/a.txt"])
    {'texts/es/a.txt': 'es/a.txt', 'texts/en/a.txt': 'en/a.txt'}
    """
    parts = [name.split("/") for name in names]
    same = 0
    for level in zip_longest(*(part[:-1] for part in parts)):
        if len(set(level)) > 1:
            break
        same += 1
    return {name: "/".join(part[same:]) for name, part in zip(names, parts, strict=True)}


def _costs(rows: Sequence[Data]) -> list[Data]:
    made = []
    for number, cost in enumerate(rows[0]["costs"]):

        def of(key: str, number: int = number) -> list[float | None]:
            return [row["costs"][number][key] for row in rows]

        made.append(
            {
                "title": cost["preset"],
                "header": [row["name"] for row in rows],
                "rows": [
                    _figure("parameters", of("parameters"), wording.exact),
                    _figure("of them the vocabulary's", of("vocabulary_share"), wording.percent, part=True),
                    _figure("the vocabulary's FLOPs", of("vocabulary_flops_share"), wording.percent),
                    _figure("training FLOPs for a byte of text", of("training_flops_per_byte"), flops),
                    _figure(
                        f"{wording.exact(cost['context_tokens'])} tokens of context, in words",
                        of("context_words"),
                        wording.exact,
                        note="of this text",
                    ),
                ],
            }
        )
    return made


# ---- tokens --------------------------------------------------------------------------------------------------


def _vocabulary(row: Data, rare: int) -> Data:
    several = row["multi_word"]
    lists = [
        ("Longest", "", row["longest"]),
        ("Most used", "", row["most_used"]),
        ("Of several words", f"{wording.exact(several['tokens'])}, the most used first", several["most_used"]),
        ("Unused", _of_all(row["unused"]), row["unused"]["examples"]),
        (f"Rare, below {rare} times", _of_all(row["rare"]), row["rare"]["examples"]),
        *((kind["says"].capitalize(), _of_all(kind), kind["examples"]) for kind in row["artefacts"]),
    ]
    shown = [{"title": title, "note": note, "tokens": _tokens(found)} for title, note, found in lists if found]
    return {"name": row["name"], "lists": shown}


def _of_all(found: Data) -> str:
    return f"{wording.exact(found['tokens'])} tokens, the longest first"


def _tokens(found: Sequence[Data]) -> list[Data]:
    return [
        {
            "text": token["text"],
            "colour": colour(number),
            "says": f"id {token['id']}, {wording.plural(token['bytes'], 'byte')}, "
            f"{wording.plural(token['count'], 'time')} in the text",
        }
        for number, token in enumerate(found)
    ]


# ---- trained models ------------------------------------------------------------------------------------------


def _training(made: Data) -> Data:
    values = [value for row in made["rows"] for value in row["values"]]
    axis = charts.value_scale(min(values), max(values), "bits per byte", 0.08, 0.08, 4) if values else None
    return {
        "rows": [_trained(row, number, axis) for number, row in enumerate(made["rows"])],
        "ruler": Markup(charts.ruler(axis)) if axis else None,
        "notes": made["notes"],
    }


def _trained(row: Data, number: int, axis: charts.Scale | None) -> Data:
    found, strip, spread = row["bits_per_byte"], "", ""
    style = f"v{min(number, _COLOURS - 1)}"
    if found is not None and axis is not None:
        strip = charts.strip(row["values"], found["mean"], axis, f"own {style}", f"{row['name']}: each seed and mean")
        deviation = found["standard_deviation"]
        spread = "n = 1" if deviation is None else f"± {deviation:.4f} (sd, n = {found['n']})"
    return {
        "name": row["name"],
        "colour": style,
        "mean": wording.UNKNOWN if found is None else f"{found['mean']:.4f}",
        "spread": spread,
        "difference": row["difference"],
        "verdict": row["verdict"],
        "given": [wording.exact(row["parameters"]), wording.exact(row["steps"]), wording.size(row["text_bytes"])],
        "strip": Markup(strip),
    }
