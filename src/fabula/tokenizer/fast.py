"""Ids as `tokenizers` gives them, several times as fast, for the tokenizers of which this is sure.

A BPE goes through tiktoken, where its merges may be found by their bytes (`ranks.by_bytes`) and its pieces are cut by a
pattern that both libraries read alike; whole characters and bytes are a look into a table. Everything else (unigram,
tokens that are found in the text before it is cut, texts changed before) is left to `tokenizers`: `encoder` says None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from fabula.tokenizer import cuts
from fabula.tokenizer.base import byte_of_letter
from fabula.tokenizer.ranks import Pair, by_bytes, stands

# Where a pattern looks ahead, a long stretch of space is stepped through and its engine gives up at a million steps:
# stretches that fill one of these blocks go to `tokenizers`.
_BLOCK = 1 << 16
_THREADS = 8
# How often parts of a long text are joined anew before it is encoded as a whole.
_ROUNDS = 6


class Encoder(Protocol):
    """Something that knows the ids of a text that can be written as UTF-8."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], threads: int | None) -> list[list[int]]: ...

    def takes(self, text: str) -> bool:
        """Whether this text may be given to it."""


def n_threads() -> int:
    """Threads for a batch: one for each core that this process may use, up to a number that still helps."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_THREADS, cores)


def encoder(data: dict[str, Any]) -> Encoder | None:
    """The fast encoder of a `tokenizer.json`'s data; None where nothing but `tokenizers` is sure to give its ids."""
    model, name = data["model"], cuts.named(data["pre_tokenizer"])
    plain = data["normalizer"] is None and model["type"] == "BPE" and not model.get("byte_fallback")
    plain = plain and all(token["special"] for token in data["added_tokens"])
    plain = plain and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token")
    )
    if name is None or not plain:
        return None
    letters = byte_of_letter()
    special = {token["content"] for token in data["added_tokens"]}
    vocabulary: dict[str, int] = model["vocab"]
    written = {token: number for token, number in vocabulary.items() if token not in special}
    if not written.keys() >= letters.keys():
        return None
    if model["ignore_merges"]:
        if model["merges"] or name != "characters":
            return None
        return _table({_bytes(token, letters): number for token, number in written.items()})
    if not model["merges"] and name != "characters":
        return _table({bytes([byte]): vocabulary[letter] for letter, byte in letters.items()})
    return _merging(vocabulary, model["merges"], letters, cuts.CUTS[name])


def _bytes(token: str, letters: dict[str, int]) -> bytes:
    return bytes(letters[letter] for letter in token)


def _merging(
    vocabulary: dict[str, int], merges: list[list[str]], letters: dict[str, int], cut: cuts.Cut
) -> Encoder | None:
    try:
        pairs = [(vocabulary[left], vocabulary[right]) for left, right in merges]
        made = [vocabulary[left + right] for left, right in merges]
    except KeyError:
        return None
    known = by_bytes(pairs, made)
    if known is None:
        return None
    token_of = {number: token for token, number in vocabulary.items()}
    ranks = {bytes([byte]): vocabulary[letter] for letter, byte in letters.items()}
    ranks.update((_bytes(token_of[number], letters), number) for number in made)
    return _Merging(ranks, cut, *known)


class _Merging:
    """tiktoken, given the tokens' bytes and their ids as ranks.

    Where a document is one piece, its time grows faster than its length (every place is kept in one heap). A long one
    is encoded in parts; where the cut between two would not have stayed (`ranks.stands`), they are encoded as one.
    """

    part = 1 << 14

    def __init__(self, ranks: dict[bytes, int], cut: cuts.Cut, parts: dict[int, Pair], made: dict[Pair, int]) -> None:
        from tiktoken import Encoding

        self._uncut, self._parts, self._made = cut is cuts.CUTS["none"], parts, made
        self._looks_ahead = cut.looks_ahead
        self._encoding = Encoding("fabula", pat_str=cut.pattern, mergeable_ranks=ranks, special_tokens={})

    def takes(self, text: str) -> bool:
        if not self._looks_ahead or len(text) < 2 * _BLOCK:
            return True
        return not any(text[start : start + _BLOCK].isspace() for start in range(0, len(text), _BLOCK))

    def encode(self, text: str) -> list[int]:
        if not self._uncut or len(text) <= 2 * self.part:
            return self._encoding.encode_ordinary(text)
        texts = [text[start : start + self.part] for start in range(0, len(text), self.part)]
        made = [self._encoding.encode_ordinary(part) for part in texts]
        for _ in range(_ROUNDS):
            joined = [[0]]
            for number in range(1, len(texts)):
                if stands(made[number - 1][-1], made[number][0], self._parts, self._made):
                    joined.append([number])
                else:
                    joined[-1].append(number)
            if len(joined) == len(texts):
                return [number for ids in made for number in ids]
            # What is joined may begin or end with other tokens than its parts: it is looked at again.
            whole = ["".join(texts[i] for i in group) for group in joined]
            made = [
                made[group[0]] if len(group) == 1 else self._encoding.encode_ordinary(part)
                for group, part in zip(joined, whole, strict=True)
            ]
            texts = whole
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int | None) -> list[list[int]]:
        threads = min(threads or n_threads(), len(texts))
        if threads <= 1 or (self._uncut and any(len(text) > 2 * self.part for text in texts)):
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)


def _table(ids: dict[bytes, int]) -> Encoder:
    return _Table(ids)


class _Table:
    """Whole characters, and bytes where there is none."""

    def __init__(self, ids: dict[bytes, int]) -> None:
        import numpy as np

        self._of_byte = np.array([ids[bytes([byte])] for byte in range(256)], dtype=np.int32)
        self._of_character = np.full(0x110000, -1, dtype=np.int32)
        self._of_character[:0x80] = self._of_byte[:0x80]
        self._bytes_only = True
        for raw, number in ids.items():
            if len(raw) > 1:
                self._bytes_only = False
                try:
                    self._of_character[ord(raw.decode("utf-8"))] = number
                except (UnicodeDecodeError, TypeError):
                    # Not a character: no piece is ever this token.
                    continue

    def takes(self, text: str) -> bool:
        return True

    def encode(self, text: str) -> list[int]:
        import numpy as np

        if self._bytes_only:
            ids: list[int] = self._of_byte[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)].tolist()
            return ids
        found = self._of_character[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        unknown = np.flatnonzero(found < 0)
        if not len(unknown):
            ids = found.tolist()
            return ids
        made, start = [], 0
        for place in unknown.tolist():
            made += found[start:place].tolist()
            made += self._of_byte[np.frombuffer(text[place].encode("utf-8"), dtype=np.uint8)].tolist()
            start = place + 1
        return made + list(found[start:].tolist())

    def encode_batch(self, texts: Sequence[str], threads: int | None) -> list[list[int]]:
        return [self.encode(text) for text in texts]
