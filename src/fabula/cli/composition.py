"""What a corpus is made of, as pages of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from fabula.cli import console
from fabula.cli.tables import cleaning_table, dropped_words
from fabula.config import Data

_WIDTH = 110
_ROWS = 8
_BAR = 40


def lines(found: Data) -> list[str]:
    """The report as lines of text."""
    sample, lengths, words = found["sample"], found["lengths"], found["vocabulary"]
    size = f"{found['documents']:,} documents, {console.n_bytes(found['bytes'])}, {found['words']:,} words"
    said = [f"{found['source']}: {size}"]
    if not sample["whole"]:
        said.append(
            f"What follows below the lengths is of a sample: {sample['documents']:,} documents, "
            f"{console.n_bytes(sample['bytes'])}, chosen by a hash of their text."
        )
    said += _head("what stands out")
    said += [line for remark in found["remarks"] for line in _wrapped(remark, "- ")] or ["nothing that crosses a limit"]
    said += _topics(found["topics"])
    if found["languages"] is not None:
        said += _head("languages")
        rows = [
            (
                row["language"] or "too short to tell",
                _share(row["share"]),
                f"{row['documents']:,}",
                _share(row["bytes_share"]),
            )
            for row in found["languages"][:_ROWS]
        ]
        said += console.table(rows, ("language", "share", "documents", "of the bytes"), right=(1, 2, 3)).splitlines()
    said += _head("lengths, in words")
    said.append(
        f"{lengths['mean']:,.0f} on average; half of the documents have {lengths['p25']:,} to {lengths['p75']:,}, "
        f"nine in ten {lengths['p5']:,} to {lengths['p95']:,}; least {lengths['least']:,}, most {lengths['most']:,}"
    )
    said += _histogram(lengths["histogram"])
    said += _head("vocabulary")
    rare = words["hapax"] / max(1, words["types"])
    said.append(f"{words['types']:,} different words among {words['words']:,}; {rare:.0%} of them stand there once")
    if words["mattr"] is not None:
        said.append(f"of {words['mattr_window']} words in a row {words['mattr']:.1%} are different (MATTR)")
    if words["heaps_beta"] is not None:
        said.append(
            f"twice the text has {2 ** words['heaps_beta']:.2f} times the vocabulary (Heaps {words['heaps_beta']:.2f})"
        )
    reading = found["readability"]
    if reading["lix"] is not None:
        said.append(
            f"{reading['words_per_sentence']:.1f} words a sentence, {reading['letters_per_word']:.1f} letters a word, "
            f"LIX {reading['lix']:.0f}"
        )
    said += _repeated(found)
    near = found["near"]
    said += _head("near copies")
    said.append(
        f"{near['copies']:,} of {near['judged']:,} documents resemble an earlier one by {near['threshold']:g} or more"
    )
    said += [f"  {e['origin']}: {e['resemblance']:.0%} like {e['like']}" for e in near["examples"]]
    if "cleaning" in found["funnel"]:
        said += [*_head("cleaning"), *cleaning_table(found["funnel"]).splitlines()]
    said += [*_head("how it was read"), f"dropped: {dropped_words(found['funnel'])}"]
    said += [line for note in found["notes"] for line in _wrapped(note, "- ")]
    return said


def _topics(topics: list[Data] | None) -> list[str]:
    said = _head("topics")
    if topics is None:
        return [*said, "left out, see the end"]
    if not topics:
        return [*said, "too few documents, or too few words in common, to find any"]
    for topic in topics:
        code = f" [{topic['language']}]" if topic["language"] else ""
        said.append(
            f"{_share(topic['share']):>6} of the documents, {_share(topic['bytes_share']):>6} of the bytes{code}: "
            f"{', '.join(topic['words'])}"
        )
        said += [f"           “{_cut(example)}”" for example in topic["examples"]]
    return said


def _histogram(bins: Sequence[Sequence[float]]) -> list[str]:
    most = max((count for _, _, count in bins), default=1)
    # Bins of a power of two are enough for a terminal.
    said, merged = [], dict[int, float]()
    for low, _, count in bins:
        key = max(1, 1 << int(low).bit_length() - 1)
        merged[key] = merged.get(key, 0) + count
    most = max(merged.values(), default=1)
    for low in sorted(merged):
        said.append(f"  {low:>7,} to {2 * low:<7,} {'█' * round(_BAR * merged[low] / most):<{_BAR}} {merged[low]:,.0f}")
    return said


def _repeated(found: Data) -> list[str]:
    said = []
    for key, title in (("openings", "how documents begin"), ("endings", "how documents end")):
        made = found[key]
        said += _head(title)
        n = len(made["most"])
        if not n:
            said.append("each in its own way")
            continue
        said.append(f"{made['covered']:.1%} with one of {n}; {made['different']:,} different ones in all")
        said += _rows(made["most"])
    eight, four = found["ngrams"]
    for title, rows in (
        ("lines that repeat", found["lines"]),
        ("paragraphs that repeat", found["paragraphs"]),
        ("sentences that repeat", found["sentences"]),
        (f"{eight['n']} words in a row that repeat", eight["most"]),
        (f"{four['n']} words in a row that repeat", four["most"]),
    ):
        if rows:
            said += [*_head(title), *_rows(rows)]
    return said


def _rows(rows: Sequence[Data]) -> list[str]:
    return [f"{_share(row['share']):>7}  {row['documents']:>7,}  {_cut(row['text'])}" for row in rows[:_ROWS]]


def _head(title: str) -> list[str]:
    return ["", title, "─" * len(title)]


def _share(share: float) -> str:
    return f"{share:.1%}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH - 20 else line[: _WIDTH - 21] + "…"


def _wrapped(text: str, mark: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
