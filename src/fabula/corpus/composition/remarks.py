"""What of a corpus's composition is worth a word? Sentences, each with the figure that causes it.

The limits are rules of thumb: what crosses one is not wrong, it is what a model will learn.
"""

from __future__ import annotations

from fabula.config import Data

TOPIC = 0.40
BEGINNINGS = 0.50
ENDINGS = 0.25
LINE = 0.10
NEAR = 0.01
DUPLICATES = 0.01
MATTR = 0.40
SHORT = 0.20
OTHER_LANGUAGE = (0.005, 0.20)
BROKEN = 0.005
_FEW = 20  # documents: below, shares say little


def remarks(found: Data) -> list[str]:
    """What to know before training on this corpus; [] when nothing stands out."""
    said: list[str] = []
    n = found["sample"]["documents"]
    if n < _FEW:
        said.append(f"There are only {n:,} documents: shares and topics say little.")
    for topic in found["topics"] or []:
        if topic["share"] >= TOPIC and len(found["topics"]) > 1:
            about = ", ".join(topic["words"][:5])
            said.append(f"{topic['share']:.0%} of the documents are about one thing: {about}.")
    said += _languages(found)
    opening, ending = found["openings"], found["endings"]
    if opening["most"] and opening["covered"] >= BEGINNINGS:
        first = opening["most"][0]
        said.append(
            f"Documents begin alike: {opening['covered']:.0%} with one of {len(opening['most'])} openings, "
            f"{first['share']:.0%} with “{first['text']}”."
        )
    if ending["most"] and ending["covered"] >= ENDINGS:
        first = ending["most"][0]
        said.append(
            f"The last sentences repeat: {ending['covered']:.0%} of the documents share one of {len(ending['most'])} "
            f"endings; the most frequent, in {first['share']:.1%}: “{first['text']}”"
        )
    said += _lines(found)
    if found["near"]["judged"] and found["near"]["share"] >= NEAR:
        said.append(
            f"{found['near']['share']:.1%} of the documents are near copies of an earlier one; "
            "--corpus.clean.near_duplicates 0.8 drops them."
        )
    funnel = found["funnel"]
    if funnel["duplicates"] >= DUPLICATES * max(1, funnel["records"]):
        said.append(
            f"{funnel['duplicates']:,} of {funnel['records']:,} records repeat another exactly and are dropped."
        )
    richness = found["vocabulary"]
    if richness["mattr"] is not None and richness["mattr"] < MATTR:
        said.append(
            f"The vocabulary is narrow: of {richness['mattr_window']} words in a row {richness['mattr']:.0%} are "
            f"different ({richness['types']:,} different words in all)."
        )
    short = found["lengths"]["below_50_words"]
    if short >= SHORT:
        said.append(f"{short:.0%} of the documents have fewer than 50 words: hardly a text to learn from.")
    for kind, what, advice in (
        ("mojibake", "mojibake (â€œ)", "--corpus.clean.mojibake repair puts most right"),
        ("lost", "U+FFFD where characters were lost", "--corpus.clean.mojibake drop drops them"),
    ):
        if found["broken"][kind] >= BROKEN * max(1, n) and found["broken"][kind]:
            said.append(f"{found['broken'][kind] / n:.1%} of the documents have {what}; {advice}.")
    return said


def _languages(found: Data) -> list[str]:
    low, high = OTHER_LANGUAGE
    known = [row for row in found["languages"] or [] if row["language"]]
    return [
        f"{row['share']:.1%} of the documents are in another language ({row['language']}); "
        f"--corpus.clean.languages {known[0]['language']} keeps the first one only."
        for row in known[1:]
        if low <= row["share"] < high and row["documents"] > 1
    ]


def _lines(found: Data) -> list[str]:
    said = []
    for noun, rows in (("line", found["lines"]), ("paragraph", found["paragraphs"]), ("sentence", found["sentences"])):
        if rows and rows[0]["share"] >= LINE:
            said.append(f"One {noun} stands in {rows[0]['share']:.0%} of the documents: “{rows[0]['text'][:100]}”")
            break
    return said
