"""What is in a vocabulary, judged by how often its tokens occur in a text? Shares, examples, warnings.

Tokens of one byte and special ones are left out of all shares: every byte-level vocabulary has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data
from fabula.tokenizer import artefacts, showing

# How many tokens are listed of each kind.
LISTED, EXAMPLES = 20, 8

# Of Rényi's entropy: the one that agreed best with translation quality in arXiv:2306.16842.
ALPHA = 2.5

# A script is judged from so many characters on, two are compared from so many; a tenth of its characters may be cut.
_JUDGED, _COMPARED, _CUT = 100, 1_000, 0.1
_SMALL_TEXT = 100_000

Ints = NDArray[np.int64]


def describe(table: Sequence[bytes], counts: Ints, rare: int) -> Data:
    """The vocabulary's figures on a text in which its tokens occur `counts` times."""
    learnt = [number for number, raw in enumerate(table) if len(raw) > 1]
    several = [number for number in learnt if artefacts.is_multi_word(table[number].decode("utf-8", "ignore"))]
    unused = [number for number in learnt if counts[number] == 0]
    few = [number for number in learnt if 0 < counts[number] < rare]
    tokens = max(1, int(counts.sum()))
    size = max(1, sum(int(counts[n]) * len(raw) for n, raw in enumerate(table)))

    def one(number: int) -> Data:
        raw = table[number]
        return {"id": number, "text": showing.shown(raw), "bytes": len(raw), "count": int(counts[number])}

    def longest(numbers: Sequence[int], most: int) -> list[Data]:
        order = sorted(numbers, key=lambda n: (-len(table[n].decode("utf-8", "replace")), n))
        return [one(n) for n in order[:most]]

    odd: dict[str, list[int]] = {kind.name: [] for kind in artefacts.KINDS}
    for number in learnt:
        for name in artefacts.kinds_of(table[number]):
            odd[name].append(number)
    return {
        "learnt": len(learnt),
        "single_bytes": sum(len(raw) == 1 for raw in table),
        "special": sum(not raw for raw in table),
        "multi_word": {
            "tokens": len(several),
            "vocabulary_share": len(several) / max(1, len(learnt)),
            "text_share": sum(int(counts[n]) for n in several) / tokens,
            "bytes_share": sum(int(counts[n]) * len(table[n]) for n in several) / size,
            "most_used": [one(n) for n in sorted(several, key=lambda n: (-int(counts[n]), n))[:LISTED]],
        },
        "single_byte_share": sum(int(counts[n]) for n, raw in enumerate(table) if len(raw) == 1) / tokens,
        "unused": _listed(unused, learnt, longest),
        "rare": _listed(few, learnt, longest),
        "renyi_efficiency": renyi_efficiency(counts),
        "longest": longest(learnt, LISTED),
        "most_used": [one(n) for n in sorted(learnt, key=lambda n: (-int(counts[n]), n))[:LISTED] if counts[n]],
        "artefacts": [
            {
                "name": kind.name,
                "says": kind.says,
                **_listed(odd[kind.name], learnt, longest),
                "text_share": sum(int(counts[n]) for n in odd[kind.name]) / tokens,
            }
            for kind in artefacts.KINDS
        ],
    }


def _listed(numbers: Sequence[int], learnt: Sequence[int], longest: Any) -> Data:
    return {
        "tokens": len(numbers),
        "vocabulary_share": len(numbers) / max(1, len(learnt)),
        "examples": longest(numbers, EXAMPLES),
    }


def renyi_efficiency(counts: Ints, alpha: float = ALPHA) -> float:
    """How evenly a text uses a vocabulary: Rényi's entropy of the tokens over that of equal use (arXiv:2306.16842).

    From 0 (one token) to 1 (all equally often).
    """
    total = counts.sum()
    if total == 0 or len(counts) < 2:
        return 0.0
    shares = counts[counts > 0] / total
    return float(np.log((shares**alpha).sum()) / (1 - alpha) / np.log(len(counts)))


def warnings(found: Data, text_bytes: int, rare: int) -> list[str]:
    """What a person should know before choosing this tokenizer, in sentences."""
    said = []
    if text_bytes < _SMALL_TEXT:
        said.append(
            f"only {text_bytes / 1e3:,.1f} kB of text were measured: what is unused or rare in so little says nothing "
            "of the vocabulary"
        )
    if found["changes"]:
        said.append(f"it changes a text before it cuts it: {found['changes']}")
    scripts = [row for row in found["scripts"] if row["name"] not in ("Common", "Other")]
    broken_up = [row for row in scripts if row["characters"] >= _JUDGED and row["cut_share"] > _CUT]
    if broken_up:
        names = ", ".join(f"{r['name']} ({r['cut_share']:.0%} of {r['characters']:,} characters)" for r in broken_up)
        said.append(
            f"cut into bytes, for want of tokens of their own: {names}; learn the vocabulary from a text that has them"
        )
    compared = [row for row in scripts if row["characters"] >= _COMPARED]
    best = min(compared, key=lambda row: row["tokens_per_character"], default=None)
    for row in compared:
        if best is not None and row["tokens_per_character"] > 2 * best["tokens_per_character"]:
            times = row["tokens_per_character"] / best["tokens_per_character"]
            said.append(
                f"{row['name']} costs {row['tokens_per_character']:.2f} tokens a character, {times:.1f} times "
                f"{best['name']}"
            )
    if text_bytes >= _SMALL_TEXT and found["unused"]["vocabulary_share"] > 0.2:
        said.append(
            f"{found['unused']['vocabulary_share']:.0%} of the vocabulary does not occur in this text and "
            f"{found['rare']['vocabulary_share']:.0%} less than {rare} times: a model pays for each of these tokens, "
            "and from this text would hardly learn them"
        )
    several = found["multi_word"]
    if several["vocabulary_share"] > 0.05:
        said.append(
            f"{several['vocabulary_share']:.0%} of the vocabulary are pieces of several words: bytes a token are high "
            "for that alone; compare bits per byte of trained models (tokenizer compare --train)"
        )
    broken = next(row for row in found["artefacts"] if row["name"] == "mojibake")
    if broken["tokens"]:
        examples = ", ".join(token["text"] for token in broken["examples"][:3])
        said.append(f"{broken['tokens']:,} tokens are text that was decoded wrongly ({examples}): mend the corpus")
    return said
