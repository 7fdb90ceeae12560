"""The report on what a corpus is made of: one pass that counts everything, and a sample that is looked at closely.

Counts of documents and bytes and the lengths are of the whole corpus. All that looks at words is of a sample that fits
into memory: of a corpus above `sample_bytes` each document is kept or not by a hash of its text.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from fabula.config import Data
from fabula.corpus.clean.characters import has_mojibake
from fabula.corpus.composition import formulas, richness
from fabula.corpus.composition.remarks import remarks
from fabula.corpus.composition.topics import topics
from fabula.corpus.readers import is_plain
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.corpus.sources import Files
from fabula.corpus.split import content_key, position_of
from fabula.corpus.words import sentences, words
from fabula.errors import MachineError
from fabula.progress import Progress, Silent, check_stop

SAMPLE_BYTES = 32 << 20
NEAR = 0.8
_MOST_TOPIC_DOCUMENTS = 20_000
_MOST_LANGUAGE_DOCUMENTS = 20_000
_CHECK_EVERY = 256
# From this mean length on a line is a document of its own.
_LONG_LINE_BYTES = 1000
_PROBED_LINES = 200
_LONG = 100_000


@dataclass(slots=True)
class _Counts:
    """What is counted over the whole corpus; `lengths` says how many documents have so many words."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    lengths: Counter[int] = field(default_factory=Counter)


def run(config: CorpusConfig, sample_bytes: int = SAMPLE_BYTES, progress: Progress | None = None) -> Data:
    """What a corpus is made of, as plain data (docs/composition.md names the fields)."""
    progress = progress or Silent()
    config, notes = _one_line_each(config)
    corpus, funnel = Corpus(config), Funnel()
    keep = sample_bytes / max(1, corpus.estimated_bytes())
    counts, texts, held = _Counts(), list[str](), 0
    origins: list[str] = []
    with progress.task("reading", corpus.estimated_bytes(), "bytes") as task:
        for number, (_, document) in enumerate(corpus.documents(funnel, both=False)):
            if number % _CHECK_EVERY == 0:
                check_stop("reading")
            text = "\n".join(document.texts)
            raw = text.encode("utf-8")
            _count(counts, text, len(raw))
            task.advance(len(raw))
            chosen = keep >= 1 or position_of(content_key(raw), config.seed, b"report") < keep
            # An estimate may be off; memory is not to be.
            if chosen and held + len(raw) <= 2 * sample_bytes:
                held += len(raw)
                texts.append(text)
                origins.append(document.origin)
    if not texts:
        notes.append("no document fell into the sample: give a larger one")
    sampled = len(texts) < counts.documents
    found: Data = {
        "source": config.source,
        "fingerprint": corpus.fingerprint(),
        "documents": counts.documents,
        "bytes": counts.bytes,
        "words": counts.words,
        "sample": {"documents": len(texts), "bytes": held, "whole": not sampled, "seed": config.seed},
        "lengths": _lengths(counts),
        "funnel": funnel.to_data(),
        "notes": [*corpus.notes(), *notes],
    }
    found |= _look(texts, origins, found["notes"], progress)
    found["remarks"] = remarks(found)
    return found


def _look(texts: list[str], origins: Sequence[str], notes: list[str], progress: Progress) -> Data:
    """All that is said of the sample."""
    looks = 8
    with progress.task("looking at the sample", looks, "looks") as task:

        def done(what: str) -> None:
            check_stop(what)
            task.advance(1, what)

        documents = [words(text) for text in texts]
        sizes = [len(text.encode("utf-8")) for text in texts]
        done("words")
        languages, codes = _languages(texts, sizes, notes)
        done("languages")
        vocabulary = richness.vocabulary(map(richness.spoken, documents))
        reading = richness.readability(
            (len(sentences(text)), richness.spoken(found)) for text, found in zip(texts, documents, strict=True)
        )
        done("vocabulary")
        lines = formulas.repeated_lines(texts)
        paragraphs = formulas.repeated_paragraphs(texts)
        repeated = formulas.repeated_sentences(texts)
        done("lines")
        ngrams = formulas.repeated_ngrams(documents)
        done("stretches of words")
        openings, endings = formulas.openings(documents), formulas.endings(texts)
        done("openings and endings")
        near = _near(documents, origins)
        done("near copies")
        about = _topics(texts, documents, codes, sizes, notes)
        done("topics")
    return {
        "topics": about,
        "languages": languages,
        "vocabulary": vocabulary,
        "readability": reading,
        "lines": lines,
        "paragraphs": paragraphs,
        "sentences": repeated,
        "ngrams": ngrams,
        "openings": openings,
        "endings": endings,
        "near": near,
        "broken": {"mojibake": sum(map(has_mojibake, texts)), "lost": sum("\ufffd" in text for text in texts)},
    }


def _one_line_each(config: CorpusConfig) -> tuple[CorpusConfig, list[str]]:
    """A configuration with a document a line, where lines are long and nobody said how they are cut; and a note.

    The other stages join short lines until a document has 4,096 bytes. That is right for a book, and hides in a report
    where one article ends and the next begins.
    """
    usual = CorpusConfig()
    if (config.split, config.document_bytes) != (usual.split, usual.document_bytes) or config.pair is not None:
        return config, []
    changed = dataclasses.replace(config, split="line", document_bytes=0)
    for source in Corpus(config).sources:
        if not isinstance(source, Files) or any(
            not is_plain(f.path) or source.cut(f)[0] != "line" for f in source.files
        ):
            return config, []
    firsts = islice((d for s in Corpus(changed).sources for d in s.documents(lambda _: None)), _PROBED_LINES)
    sizes = [len(document.text.encode("utf-8")) for document in firsts]
    if not sizes or sum(sizes) / len(sizes) < _LONG_LINE_BYTES:
        return config, []
    note = (
        f"lines have {sum(sizes) / len(sizes):,.0f} bytes on average: here each is a document. The other stages join "
        "those below 4,096 bytes to the next one; to cut as here: --corpus.split line --corpus.document_bytes 0"
    )
    return changed, [note]


def _count(counts: _Counts, text: str, size: int) -> None:
    n = len(text.split())
    counts.documents += 1
    counts.bytes += size
    counts.words += n
    # Of the longest the thousand words are enough, so that there are never many different ones.
    counts.lengths[n if n < _LONG else n // 1000 * 1000] += 1


def _lengths(counts: _Counts) -> Data:
    """Lengths in words: mean, ends, quantiles, and a histogram whose bins are a quarter of a power of two."""
    n = max(1, counts.documents)
    bins: Counter[int] = Counter()
    for length, count in counts.lengths.items():
        bins[math.floor(4 * math.log2(max(1, length)))] += count
    return {
        "mean": counts.words / n,
        "least": min(counts.lengths, default=0),
        "most": max(counts.lengths, default=0),
        **{f"p{percent}": _quantile(counts, percent / 100) for percent in (5, 25, 50, 75, 95)},
        "below_50_words": sum(count for length, count in counts.lengths.items() if length < 50) / n,
        "histogram": [[2 ** (b / 4), 2 ** ((b + 1) / 4), bins[b]] for b in range(min(bins), max(bins) + 1)]
        if bins
        else [],
    }


def _quantile(counts: _Counts, share: float) -> int:
    passed = length = 0
    for length in sorted(counts.lengths):
        passed += counts.lengths[length]
        if passed >= share * counts.documents:
            break
    return length


def _languages(texts: Sequence[str], sizes: Sequence[int], notes: list[str]) -> tuple[list[Data] | None, list[str]]:
    """The languages, most frequent first, "" for texts too short to tell; and the code of each document."""
    from fabula.corpus.clean import language

    try:
        language.require()
    except MachineError as error:
        notes.append(f"languages are left out: {error}")
        return None, [""] * len(texts)
    # Of very many documents every second, third, ... is judged.
    step = -(-len(texts) // _MOST_LANGUAGE_DOCUMENTS) or 1
    codes = [""] * len(texts)
    judged = range(0, len(texts), step)
    for i in judged:
        if i % _CHECK_EVERY == 0:
            check_stop("telling languages")
        if language.letters(texts[i], 40):
            codes[i] = language.language_of(texts[i])[0]
    count, size = Counter(codes[i] for i in judged), Counter[str]()
    for i in judged:
        size[codes[i]] += sizes[i]
    whole = max(1, sum(size.values()))
    rows: list[Data] = [
        {"language": code, "documents": n, "share": n / len(judged), "bytes_share": size[code] / whole}
        for code, n in sorted(count.items(), key=lambda item: (-item[1], item[0]))
    ]
    return rows, codes


def _near(documents: Sequence[Sequence[str]], origins: Sequence[str]) -> Data:
    """How many documents are near copies of an earlier one (resemblance of 0.8 or more)."""
    from fabula.corpus.clean.shingles import LEAST, WORDS, NearCopies

    examples: list[Data] = []
    judged = copies = 0
    with NearCopies(NEAR) as seen:
        for number, (found, origin) in enumerate(zip(documents, origins, strict=True)):
            if number % _CHECK_EVERY == 0:
                check_stop("looking for near copies")
            judged += len(found) >= LEAST + WORDS - 1
            copy = seen.copy_of(found, origin)
            if copy is not None:
                copies += 1
                if len(examples) < 5:
                    examples.append({"origin": origin, "like": copy[0], "resemblance": copy[1]})
    return {
        "threshold": NEAR,
        "judged": judged,
        "copies": copies,
        "share": copies / max(1, judged),
        "examples": examples,
    }


def _topics(
    texts: Sequence[str],
    documents: Sequence[Sequence[str]],
    codes: Sequence[str],
    sizes: Sequence[int],
    notes: list[str],
) -> list[Data] | None:
    step = -(-len(texts) // _MOST_TOPIC_DOCUMENTS) or 1
    try:
        return topics(texts[::step], documents[::step], codes[::step], sizes[::step])
    except MachineError as error:
        notes.append(f"topics are left out: {error}")
        return None
