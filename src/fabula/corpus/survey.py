"""What `fabula corpus show` tells of a corpus: sizes, lengths, words, what was dropped and why, its beginnings."""

from __future__ import annotations

import random
from typing import Any

from fabula.config import Data
from fabula.corpus.document import MAX_DOCUMENT_BYTES, Document
from fabula.corpus.records import Conversation, Record, Turn
from fabula.corpus.run import CorpusConfig, Funnel, run

_SAMPLED_LENGTHS = 100_000
_SAMPLED_WORDS = 1_000_000
_SHOWN_CHARACTERS = 300


def survey(config: CorpusConfig) -> Data:
    """What `fabula corpus show` tells: one pass over a corpus, in bounded memory. Sizes in bytes of UTF-8.

    Mean, count and extremes are exact; the percentiles come from at most 100,000 documents, chosen evenly,
    and the distinct words from the first million. A word is what stands between white space.
    Conversations and preferences are measured as text, roles and all. `entropy_bits_per_byte` is known for the
    generator only: no model can go below it on average.
    """
    corpus = run(config)
    funnel = Funnel()
    chooser = random.Random(config.seed)
    lengths: list[int] = []
    words = sampled = longest = 0
    shortest = MAX_DOCUMENT_BYTES
    distinct: set[str] = set()
    first: list[Data] = []
    kinds: dict[str, int] = {}
    turns = 0
    for number, (split, document) in enumerate(corpus.records(funnel)):
        size = sum(len(text.encode("utf-8")) for text in document.texts)
        shortest, longest = min(shortest, size), max(longest, size)
        # Reservoir sampling (Vitter 1985, algorithm R): every document is kept with the same probability.
        if len(lengths) < _SAMPLED_LENGTHS:
            lengths.append(size)
        elif (place := chooser.randrange(number + 1)) < _SAMPLED_LENGTHS:
            lengths[place] = size
        found = " ".join(document.texts).split()
        words += len(found)
        if sampled < _SAMPLED_WORDS:
            distinct.update(found[: _SAMPLED_WORDS - sampled])
            sampled = min(_SAMPLED_WORDS, sampled + len(found))
        kinds[_kind(document)] = kinds.get(_kind(document), 0) + 1
        if isinstance(document, Conversation):
            turns += len(document.turns)
        if len(first) < 3:
            first.append({"origin": document.origin, "split": split, **_shown(document)})
    lengths.sort()
    documents, size = sum(funnel.documents.values()), sum(funnel.bytes.values())
    bits = funnel.to_data()["surprisal_bits"]
    return {
        "source": config.named,
        "documents": documents,
        "bytes": size,
        "words": words,
        "document_bytes": {
            "mean": size / documents,
            "least": shortest,
            **{f"p{percent}": lengths[(len(lengths) - 1) * percent // 100] for percent in (5, 25, 50, 75, 95)},
            "most": longest,
        },
        "distinct_words": {"count": len(distinct), "among_first": sampled},
        "entropy_bits_per_byte": None if bits is None else sum(bits.values()) / size,
        "records": kinds,
        "turns": turns,
        "first": first,
        "funnel": funnel.to_data(),
        "notes": corpus.notes(),
        "sources": corpus.provenance(),
        "fingerprint": corpus.fingerprint(),
    }


def _kind(record: Record) -> str:
    if isinstance(record, Document):
        return "documents" if record.target is None else "pairs"
    return "conversations" if isinstance(record, Conversation) else "preferences"


def _shown(record: Record) -> Data:
    """The beginning of a record."""
    if isinstance(record, Document):
        shown: Data = {"text": record.text[:_SHOWN_CHARACTERS]}
        if record.target is not None:
            shown["target"] = record.target[:_SHOWN_CHARACTERS]
        return shown
    if isinstance(record, Conversation):
        return {"turns": _turns(record.turns)}
    return {name: _turns(getattr(record, name)) for name in ("prompt", "chosen", "rejected")}


def _turns(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content[:_SHOWN_CHARACTERS]} for turn in turns]
