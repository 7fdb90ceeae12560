"""A pytest plugin that counts the faults survived, row by row, and writes them down as a page.

A test of this folder says which row of the table it belongs to and how many cases it goes through:

    @pytest.mark.row("R7", cases=20, nightly=500)
    def test_killed_at_any_moment(cases: int) -> None: ...

`cases` is the first number in `make test` and the second one with `--nightly` (`make faults`). What a row has survived
is the sum of the cases of its tests that passed: a test that fails counts none of its cases.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rows import ROWS

_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--nightly", action="store_true", help="faults: the large counts")
    group.addoption("--reliability-page", metavar="FILE", help="faults: write what was survived into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(id, cases, nightly=None): the row of the fault table that a test survives")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """How many cases the test is to go through."""
    return _cases(request.node, bool(request.config.getoption("--nightly")))


def _cases(item: Any, nightly: bool) -> int:
    marker = item.get_closest_marker("row")
    assert marker is not None, "a test of faults says its row: @pytest.mark.row(ID, cases=N)"
    few: int = marker.kwargs["cases"]
    return int(marker.kwargs.get("nightly") or few) if nightly else few


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("row")
    if marker is not None:
        name = marker.args[0]
        assert name in ROWS, f"{item.nodeid}: no row {name} in tests/faults/rows.py"
        report.user_properties.append(("row", [name, _cases(item, bool(item.config.getoption("--nightly")))]))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    target = config.getoption("--reliability-page")
    if not target:
        return
    survived: dict[str, int] = defaultdict(int)
    tried: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    skipped: dict[str, list[str]] = defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            row = dict(getattr(report, "user_properties", [])).get("row")
            if row is None or (outcome == "passed" and report.when != "call"):
                continue
            name, count = row
            seconds[name] += report.duration
            if outcome == "skipped":
                skipped[name].append(str(report.longrepr[-1] if report.longrepr else ""))
                continue
            tried[name] += count
            survived[name] += count if outcome == "passed" else 0
    Path(target).write_text(page(survived, tried, seconds, skipped), encoding="utf-8")
    terminalreporter.write_line(f"{target}: {sum(survived.values()):,} of {sum(tried.values()):,} cases survived")


def page(
    survived: dict[str, int], tried: dict[str, int], seconds: dict[str, float], skipped: dict[str, list[str]]
) -> str:
    """The counts as Markdown."""
    import torch

    minutes = (time.monotonic() - _STARTED) / 60
    lines = [
        "# What was survived",
        "",
        "Written by `make faults`: every row is a fault that we cause ourselves, in processes and on disks of our own,",
        "with the number of times that it was caused and survived. [tests/faults](../tests/faults) has the tests;",
        "`make test` runs them with smaller numbers at every change.",
        "",
        f"{sum(survived.values()):,} of {sum(tried.values()):,} cases survived, {datetime.now(UTC):%Y-%m-%d}, "
        f"commit {_commit()}, {minutes:.0f} minutes, {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "| row | fault | what must happen | survived |",
        "|---|---|---|---|",
    ]
    for name, (fault, expected) in ROWS.items():
        if name in tried:
            counted = f"{survived[name]:,} of {tried[name]:,}"
            if survived[name] != tried[name]:
                counted = f"**{counted}**"
        elif name in skipped:
            counted = f"skipped: {skipped[name][0]}"
        else:
            counted = "not run"
        lines.append(f"| {name} | {fault} | {expected} | {counted} |")
    lines += [
        "",
        "Not promised: bit identity across machines, versions of libraries or numbers of threads; disks that lie about",
        "having written; locks on every network file system; defence against a hostile user of the same account.",
        "",
    ]
    return "\n".join(lines)


def _commit() -> str:
    made = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return made.stdout.strip() or "unknown"
