"""Stage: learn a tokenizer from a bounded sample of a corpus and measure how it compresses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fabula import storage
from fabula.config import Data, setting, to_data
from fabula.errors import InputError
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.characters import byte_tokenizer, train_characters
from fabula.tokenizer.cuts import Boundary, Pattern
from fabula.tokenizer.forms import LARGEST, SMALLEST
from fabula.tokenizer.unigram import train_unigram

# Default vocabularies: the head's share of the work grows with the vocabulary, and a small text has few words to offer.
_AUTO = ((2_000_000, 2048), (20_000_000, 4096))
_AUTO_LARGEST = 8192


# rustbpe counts in 31 bits; no pair stands more often than there are bytes.
_MOST_SAMPLE = 2_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["bpe", "unigram", "char", "byte"] = setting("bpe", "all are over bytes: every text comes back")
    vocab_size: int | Literal["auto"] = setting("auto", "tokens; auto: 2,048 to 8,192 by the size of the corpus")
    most_tokens: int = setting(0, "auto: that many at most, fewer where the text does not repeat enough; 0: auto says")
    boundary: Boundary = setting("word", "bpe: what merges may not cross; superword: lines, after a stage within words")
    pattern: Pattern = setting("gpt2", "what a word is, for bpe (but boundary none) and unigram")
    word_share: float = setting(0.8, "superword: the share of the merges that is learnt within words")
    sample_bytes: int = setting(16_000_000, "most bytes of training text that the vocabulary is learnt from")
    path: str = setting("", "a tokenizer's folder or tokenizer.json, to be used as it is; nothing is learnt")

    def __post_init__(self) -> None:
        if self.vocab_size != "auto" and self.vocab_size < SMALLEST:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least {SMALLEST} (bytes and special tokens)")
        if self.vocab_size != "auto" and self.vocab_size > LARGEST:
            raise ValueError(f"vocab_size={self.vocab_size} must be at most {LARGEST:,}")
        if self.most_tokens and self.vocab_size != "auto":
            raise ValueError(f"most_tokens={self.most_tokens} bounds vocab_size auto: give one of the two")
        if self.most_tokens and not SMALLEST <= self.most_tokens <= LARGEST:
            raise ValueError(f"most_tokens={self.most_tokens} must be 0, or from {SMALLEST} to {LARGEST:,}")
        if not 1 <= self.sample_bytes <= _MOST_SAMPLE:
            raise ValueError(f"sample_bytes={self.sample_bytes} must be at least 1 and at most {_MOST_SAMPLE:,}")
        if not 0 <= self.word_share <= 1:
            raise ValueError(f"word_share={self.word_share} must be between 0 and 1")
        plain = ("bpe", "auto", 0, "word", "gpt2")
        if self.path and (self.kind, self.vocab_size, self.most_tokens, self.boundary, self.pattern) != plain:
            raise ValueError(f"path={self.path!r} is used as it is: leave out kind, vocab_size, boundary and pattern")
        if self.kind == "byte" and self.vocab_size not in ("auto", SMALLEST):
            raise ValueError(f"vocab_size={self.vocab_size}: kind byte has {SMALLEST} tokens; leave it out")
        if self.kind != "bpe" and self.boundary != "word":
            raise ValueError(f"boundary={self.boundary} is for merges, which kind {self.kind} has none of")
        if self.pattern != "gpt2" and (self.kind in ("char", "byte") or self.boundary == "none"):
            raise ValueError(f"pattern={self.pattern} says what a word is, and nothing here is cut into words")


@dataclass(frozen=True, slots=True)
class TokenizerResult:
    """A trained tokenizer and what is known of it."""

    tokenizer: Tokenizer
    facts: Data
    rule: str | None  # why the vocabulary has its size, where the user did not say


def auto_vocab_size(corpus_bytes: int) -> tuple[int, str]:
    """The default vocabulary for a corpus of that many bytes, and the rule in words."""
    size = next((size for limit, size in _AUTO if corpus_bytes < limit), _AUTO_LARGEST)
    table = ", ".join(f"{tokens:,} below {limit / 1e6:.0f} MB" for limit, tokens in _AUTO)
    return size, f"{size:,} tokens for a corpus of {corpus_bytes / 1e6:.1f} MB ({table}, then {_AUTO_LARGEST:,})"


def wanted_size(config: TokenizerConfig, corpus_bytes: int) -> tuple[int, str | None]:
    """The vocabulary that is asked for, and the rule in words where the user did not say."""
    if config.vocab_size != "auto":
        return config.vocab_size, None
    if config.most_tokens:
        return config.most_tokens, f"{config.most_tokens:,} tokens at most"
    return auto_vocab_size(corpus_bytes)


def bytes_per_token(vocab_size: int) -> float:
    """What byte-level BPE of that many tokens makes of European text, about: 3.2 bytes (2,048) to 4.0 (8,192).

    See docs/log.md; for plans of text that is not tokenized yet.
    """
    return max(1.0, 3.2 + 0.4 * math.log2(vocab_size / 2048))


def identity(config: TokenizerConfig) -> Data:
    """What, beside the corpus, decides which tokenizer is made.

    Settings that came later count only where they are not at their default: older runs stay up to date.
    """
    later = {"boundary": "word", "pattern": "gpt2", "word_share": 0.8, "path": "", "most_tokens": 0}
    found = {name: value for name, value in to_data(config).items() if later.get(name) != value}
    if config.boundary != "superword":
        found.pop("word_share", None)
    return {**found, "fingerprint": Tokenizer.load(Path(config.path)).fingerprint} if config.path else found


def run(
    config: TokenizerConfig,
    texts: Iterable[str],
    corpus_bytes: int,
    folder: Path,
    progress: Progress | None = None,
    stop: StopFlag | None = None,
) -> TokenizerResult:
    """Learn from `texts` (already bounded by `sample_bytes`), or take what is at `path`; publish the folder."""
    sample = []
    for text in texts:
        if stop is not None:
            stop.check("reading text for the tokenizer")
        if text:
            sample.append(text)
    if not sample:
        raise InputError("the tokenizer got no text: the corpus is empty")
    tokenizer, rule = _made(config, sample, corpus_bytes, progress, stop)
    if stop is not None:
        stop.check("learning the tokenizer")  # not every kind looks while it learns
    facts = measure(tokenizer, sample)
    with storage.publish(folder, {"kind": config.kind, **facts}) as building:
        tokenizer.save(building)
    return TokenizerResult(tokenizer, facts, rule)


def _made(
    config: TokenizerConfig, sample: list[str], corpus_bytes: int, progress: Progress | None, stop: StopFlag | None
) -> tuple[Tokenizer, str | None]:
    """The tokenizer, and why it has its size where the user did not say."""
    if config.path:
        return Tokenizer.load(Path(config.path)), None
    if config.kind == "byte":
        return byte_tokenizer(), None
    wanted, rule = wanted_size(config, corpus_bytes)
    exact = config.vocab_size != "auto"
    if config.kind == "char":
        tokenizer = train_characters(sample, wanted, exact)
    elif config.kind == "unigram":
        tokenizer = train_unigram(sample, wanted, exact, config.pattern, progress)
    else:
        tokenizer = train_bpe(
            sample,
            wanted,
            exact,
            boundary=config.boundary,
            pattern=config.pattern,
            word_share=config.word_share,
            progress=progress,
            stop=stop,
        )
    if rule is not None and tokenizer.vocab_size < wanted:
        rule += f"; the text {'has' if config.kind == 'char' else 'repeats'} only enough for {tokenizer.vocab_size:,}"
    return tokenizer, rule


def measure(tokenizer: Tokenizer, texts: list[str], most: int = 2_000_000) -> Data:
    """Vocabulary, fingerprint and bytes a token over the first `most` bytes of some texts."""
    n_bytes = n_tokens = n_words = 0
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        n_bytes += sum(len(t.encode("utf-8")) for t in part)
        n_words += sum(len(t.split()) for t in part)
        n_tokens += sum(len(ids) for ids in tokenizer.encode_batch(part))
        if n_bytes >= most:
            break
    return {
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "bytes_per_token": n_bytes / max(1, n_tokens),
        "tokens_per_word": n_tokens / max(1, n_words),
    }


__all__ = [
    "FILE",
    "TokenizerConfig",
    "TokenizerResult",
    "auto_vocab_size",
    "bytes_per_token",
    "identity",
    "measure",
    "run",
    "wanted_size",
]
