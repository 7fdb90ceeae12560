"""Stage: learn a tokenizer from a bounded sample of a corpus and measure how it compresses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fabula import storage
from fabula.config import Data, setting
from fabula.errors import InputError
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import SMALLEST, train_bpe

# Default vocabularies: the head's share of the work grows with the vocabulary, and a small text has few words to offer.
_AUTO = ((2_000_000, 2048), (20_000_000, 4096))
_AUTO_LARGEST = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["bpe"] = setting("bpe", "byte-level BPE")
    vocab_size: int | Literal["auto"] = setting("auto", "tokens; auto: 2,048 to 8,192 by the size of the corpus")
    sample_bytes: int = setting(16_000_000, "most bytes of training text that the vocabulary is learnt from")

    def __post_init__(self) -> None:
        if self.vocab_size != "auto" and self.vocab_size < SMALLEST:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least {SMALLEST} (bytes and special tokens)")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes={self.sample_bytes} must be at least 1")


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


def run(config: TokenizerConfig, texts: Iterable[str], corpus_bytes: int, folder: Path) -> TokenizerResult:
    """Train on `texts` (already bounded by `sample_bytes`) and publish the tokenizer's folder."""
    wanted, rule = auto_vocab_size(corpus_bytes) if config.vocab_size == "auto" else (config.vocab_size, None)
    sample = [text for text in texts if text]
    if not sample:
        raise InputError("the tokenizer got no text: the corpus is empty")
    tokenizer = train_bpe(sample, wanted, exact=config.vocab_size != "auto")
    if rule is not None and tokenizer.vocab_size < wanted:
        rule += f"; the text repeats only enough for {tokenizer.vocab_size:,}"
    facts = measure(tokenizer, sample)
    with storage.publish(folder, {"kind": config.kind, **facts}) as building:
        tokenizer.save(building)
    return TokenizerResult(tokenizer, facts, rule)


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


__all__ = ["FILE", "TokenizerConfig", "TokenizerResult", "auto_vocab_size", "measure", "run"]
