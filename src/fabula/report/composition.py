"""What a corpus is made of, as one page: from the data of `fabula corpus report` to HTML.

The page keeps the rules of a run's report: complete in itself, it loads nothing; whatever the corpus says is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from fabula import storage
from fabula.config import Data
from fabula.report import charts, cleaning, wording
from fabula.report.facts import Fact
from fabula.report.reading import Facts
from fabula.report.run import compose

_TICKS = (1, 2, 5)


def write(path: Path, found: Data) -> None:
    """Write the page of a report to a file; it is replaced if it exists."""
    storage.write_text(path, render(found))


def render(found: Data) -> str:
    """The page as text; equal reports give equal pages."""
    return compose("composition.html.j2", describe(found), ["page.css", "composition.css"])


def describe(found: Data) -> dict[str, Any]:
    """The values for the whole template."""
    return {
        "name": _name(found["source"]),
        "sentence": _sentence(found),
        "sample": _sample(found),
        "remarks": found["remarks"],
        "numbers": _numbers(found),
        "topics": _topics(found["topics"]),
        "languages": _languages(found["languages"]),
        "lengths": _lengths(found["lengths"]),
        "vocabulary": _vocabulary(found["vocabulary"], found["readability"]),
        "formulas": [
            _formula(found[key], title) for key, title in (("openings", "How they begin"), ("endings", "How they end"))
        ],
        "repeated": [made for made in _repeated(found) if made["rows"]],
        "near": _near(found["near"]),
        "cleaning": cleaning.rows([Facts(step) for step in found["funnel"].get("cleaning", [])]),
        "dropped": _dropped(found["funnel"]),
        "notes": found["notes"],
    }


def _name(source: str) -> str:
    return ", ".join(PurePath(part.strip()).name or part for part in source.split(",") if part.strip()) or source


def _sentence(found: Data) -> str:
    said = f"{wording.plural(found['documents'], 'document')}, {wording.size(found['bytes'])} of text"
    topics = found["topics"]
    if topics and len(topics) > 1:
        first = topics[0]
        about = ", ".join(first["words"][:4])
        said += f"; the largest topic ({about}) has {wording.percent(first['share'])} of the documents"
    return said + "."


def _sample(found: Data) -> str:
    sample = found["sample"]
    if sample["whole"]:
        return ""
    size = f"{wording.plural(sample['documents'], 'document')} ({wording.size(sample['bytes'])})"
    return (
        "Documents, bytes and lengths are of the whole corpus. All else is of a sample of "
        f"{size}, chosen by a hash of their text."
    )


def _numbers(found: Data) -> list[Fact]:
    words, lengths = found["vocabulary"], found["lengths"]
    among = f"of {words['mattr_window']} in a row (MATTR)"
    rich = "" if words["mattr"] is None else f"{wording.percent(words['mattr'])} {among}"
    return [
        Fact("documents", wording.count(found["documents"]), _dropped(found["funnel"])),
        Fact("text", wording.size(found["bytes"]), wording.plural(found["words"], "word")),
        Fact(
            "a document", wording.plural(lengths["p50"], "word"), f"half have {lengths['p25']:,} to {lengths['p75']:,}"
        ),
        Fact("different words", wording.count(words["types"]), rich),
    ]


def _dropped(funnel: Data) -> str:
    named = (
        *(("duplicates", "repeated"), ("empty", "empty"), ("quarantined", "unreadable")),
        *(("in_validation", "in the validation source too"), ("useless", "with nothing to learn")),
    )
    parts = [f"{wording.exact(funnel[key])} {word}" for key, word in named if funnel.get(key)]
    gone = sum(step["dropped"] for step in funnel.get("cleaning", []))
    if gone:
        parts.append(f"{wording.exact(gone)} in cleaning")
    return f"left out: {', '.join(parts)}" if parts else "none left out"


def _topics(topics: list[Data] | None) -> dict[str, Any] | None:
    if not topics:
        return None
    parts = [(", ".join(topic["words"][:3]), topic["share"]) for topic in topics]
    rows = [
        {
            "colour": charts.colour(i),
            "share": wording.percent(topic["share"]),
            "bytes": wording.percent(topic["bytes_share"]),
            "documents": wording.exact(topic["documents"]),
            "language": topic["language"],
            "words": ", ".join(topic["words"]),
            "examples": topic["examples"],
        }
        for i, topic in enumerate(topics)
    ]
    return {"bar": Markup(charts.bar(parts, "Shares of the topics")), "rows": rows}


def _languages(rows: list[Data] | None) -> list[dict[str, str]]:
    return [
        {
            "name": row["language"] or "too short to tell",
            "share": wording.percent(row["share"]),
            "documents": wording.exact(row["documents"]),
            "bytes": wording.percent(row["bytes_share"]),
        }
        for row in (rows or [])[:12]
    ]


def _lengths(lengths: Data) -> dict[str, Any] | None:
    bins = lengths["histogram"]
    if not bins:
        return None
    x = _log_scale(bins[0][0], bins[-1][1], "words in a document")
    y = charts.count_scale(max(count for _, _, count in bins), "documents", about=4)
    points: list[tuple[float, float, float]] = []
    for low, high, count in bins:
        points += [(math.log10(low), 0.0, count), (math.log10(high), 0.0, count)]
    chart = charts.line_chart([], x, y, "How many documents have how many words", bands=[charts.Band(points, "bars")])
    facts = [
        Fact("mean", wording.exact(lengths["mean"]), "words"),
        Fact("shortest", wording.exact(lengths["least"])),
        Fact("longest", wording.exact(lengths["most"])),
        Fact("nine in ten", f"{lengths['p5']:,} to {lengths['p95']:,}"),
        Fact("below 50 words", wording.percent(lengths["below_50_words"]), "of the documents"),
    ]
    return {"svg": Markup(chart), "x": x.title, "y": y.title, "facts": facts}


def _vocabulary(words: Data, reading: Data) -> dict[str, Any]:
    facts = [
        Fact("words", wording.count(words["words"]), "that were looked at"),
        Fact("different", wording.exact(words["types"])),
        Fact("only once", wording.percent(words["hapax"] / max(1, words["types"])), "of the different ones"),
        Fact(
            "MATTR", wording.ratio(words["mattr"]), f"share of different words among {words['mattr_window']} in a row"
        ),
        Fact("Heaps", wording.ratio(words["heaps_beta"]), "the vocabulary grows as the text to this power"),
        Fact("Zipf", wording.ratio(words["zipf_slope"]), "frequency falls as the rank to this power"),
        Fact("words a sentence", wording.ratio(reading["words_per_sentence"])),
        Fact("letters a word", wording.ratio(reading["letters_per_word"])),
        Fact("LIX", wording.ratio(reading["lix"], 2), "below 30 a children's book, above 50 matter of fact"),
    ]
    drawn = []
    if len(words["heaps"]) > 2:
        x = charts.count_scale(words["heaps"][-1][0], "words read", about=4)
        y = charts.count_scale(words["heaps"][-1][1], "different words", about=4)
        curve = charts.Curve([(0.0, 0.0), *((a, b) for a, b in words["heaps"])], "train")
        label = "Different words over words read"
        drawn.append(
            {"title": "How the vocabulary grows", "svg": _drawn([curve], x, y, label), "x": x.title, "y": y.title}
        )
    if len(words["zipf"]) > 2:
        x = _log_scale(1, words["zipf"][-1][0], "rank of a word")
        y = _log_scale(words["zipf"][-1][1], words["zipf"][0][1], "times it is there")
        curve = charts.Curve([(math.log10(rank), math.log10(count)) for rank, count in words["zipf"]], "train")
        label = "How often the words are there, by rank"
        drawn.append({"title": "How often words come", "svg": _drawn([curve], x, y, label), "x": x.title, "y": y.title})
    return {"facts": facts, "charts": drawn}


def _drawn(curves: Sequence[charts.Curve], x: charts.Scale, y: charts.Scale, label: str) -> Markup:
    return Markup(charts.line_chart(curves, x, y, label))


def _log_scale(low: float, high: float, title: str) -> charts.Scale:
    """A logarithmic axis over positive values: places are logarithms to base 10, ticks 1, 2, 5 times powers of ten."""
    start, end = math.log10(max(low, 1e-9)), math.log10(max(high, low * 1.5, 1e-9))
    every = [m * 10**power for power in range(math.floor(start), math.ceil(end) + 1) for m in _TICKS]
    inside = [value for value in every if start - 1e-9 <= math.log10(value) <= end + 1e-9]
    if len(inside) > 8:
        inside = [value for value in inside if round(math.log10(value), 6).is_integer()]
    return charts.Scale(start, end, tuple(charts.Tick(math.log10(v), f"{v:,g}") for v in inside), title)


def _formula(found: Data, title: str) -> dict[str, Any]:
    n = len(found["most"])
    about = "Each in its own way."
    if n:
        about = (
            f"{wording.percent(found['covered'])} of the documents share one of {n}; there are "
            f"{wording.exact(found['different'])} different ones."
        )
    return {"title": title, "about": about, "rows": _rows(found["most"])}


def _repeated(found: Data) -> list[dict[str, Any]]:
    eight, four = found["ngrams"]
    return [
        {"title": "Lines", "rows": _rows(found["lines"])},
        {"title": "Paragraphs", "rows": _rows(found["paragraphs"])},
        {"title": "Sentences", "rows": _rows(found["sentences"])},
        {"title": f"{eight['n']} words in a row", "rows": _rows(eight["most"])},
        {"title": f"{four['n']} words in a row", "rows": _rows(four["most"])},
    ]


def _rows(rows: Sequence[Data]) -> list[dict[str, str]]:
    return [
        {"text": row["text"], "documents": wording.exact(row["documents"]), "share": wording.percent(row["share"])}
        for row in rows
    ]


def _near(near: Data) -> dict[str, Any]:
    many = f"{wording.exact(near['copies'])} of {wording.plural(near['judged'], 'document')}"
    return {
        "about": f"{many} resemble an earlier one ({wording.percent(near['share'])}): they share at least "
        f"{near['threshold']:.0%} of their stretches of five words.",
        "rows": [{**row, "share": wording.percent(row["resemblance"])} for row in near["examples"]],
    }
