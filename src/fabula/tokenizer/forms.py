"""What is a tokenizer of Fabula, as a file?

Four forms of `tokenizer.json`, written here and recognised here, exactly: what else a file may ask for (other patterns,
which can take for ever on a text; dropout; tokens that swallow the space around them) would break a promise that a look
at a few texts does not show. All are over bytes, so that there is no unknown text:

    BPE              256 bytes and merges; pieces are words, lines or the whole document (`cuts.py`)
    byte             the same without a merge
    char             256 bytes and characters; each is a piece, taken whole where the vocabulary has it
    unigram          256 bytes and pieces with their log-probabilities (arXiv:1804.10959)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from fabula.errors import DamagedError, InputError
from fabula.tokenizer import cuts
from fabula.tokenizer.base import MAX_BYTES, Tokenizer, byte_of_letter
from fabula.tokenizer.special import SPECIAL_TEXT

N_BYTES = 256
# Bytes and special tokens: the smallest vocabulary there is.
SMALLEST = N_BYTES + len(SPECIAL_TEXT)
# Learning across words keeps an id in 22 bits.
LARGEST = 1 << 22
# Letters of a piece of a unigram, sentencepiece's own limit; every place of a text is tried with all that begin there.
LONGEST_PIECE = 16

_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
    "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
}  # fmt: skip
_UNIGRAM = {"type": "Unigram", "unk_id": None, "byte_fallback": False}
# Log-probabilities of a unigram are between 0 and about -20; sums of much larger ones would lose what tells ways apart.
_LOWEST_SCORE = -1e4

# ---- writing ----------------------------------------------------------------------------------------------------

_LETTERS = {byte: letter for letter, byte in byte_of_letter().items()}
# The order of the bytes in a vocabulary, that of their letters.
BYTES = [bytes([byte]) for _, byte in sorted(byte_of_letter().items())]
# The bytes behind the ids with which every vocabulary over bytes begins; special tokens have none.
_FIRST = [*(b"" for _ in SPECIAL_TEXT), *BYTES]


def letters(token: bytes) -> str:
    """A token as vocabularies write it."""
    return token.decode("latin-1").translate(_LETTERS)


def bpe(pairs: Iterable[tuple[int, int]], cut: cuts.Cut) -> Tokenizer:
    """Special tokens, bytes and what the merges make, in this order.

    In the pairs a byte is its own number and the i-th merge makes the number 256 + i.
    """
    pairs = list(pairs)
    tokens = [_LETTERS[byte] for byte in range(N_BYTES)]
    raw = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in pairs:
        tokens.append(tokens[left] + tokens[right])
        raw.append(raw[left] + raw[right])
    merges = [(tokens[left], tokens[right]) for left, right in pairs]
    return _of_bytes(tokens[N_BYTES:], merges, cut, whole=False, table=[*_FIRST, *raw[N_BYTES:]])


def characters(learnt: Iterable[str]) -> Tokenizer:
    """Special tokens, bytes and characters of more than one byte, in this order."""
    made = [letters(character.encode("utf-8")) for character in learnt]
    return _of_bytes(made, [], cuts.CUTS["characters"], whole=True)


def unigram(scored: Sequence[tuple[str, float]], cut: cuts.Cut) -> Tokenizer:
    """Pieces (in letters) with their log-probabilities, then the special tokens, which the model itself cannot make."""
    from tokenizers import models

    # The library reads numbers with few digits exactly; of others the last bit may change on the way through a file.
    rounded = [(piece, round(score, 6)) for piece, score in scored]
    return _tokenizer(models.Unigram(rounded, unk_id=None, byte_fallback=False), cut)


def pre_tokenizer(cut: cuts.Cut) -> Any:
    """The library's pre-tokenizer of a cut: `pre_tokenize_str` gives the pieces of a text, in letters."""
    return _frame(cut).pre_tokenizer


def _of_bytes(
    made: Sequence[str],
    merges: Sequence[tuple[str, str]],
    cut: cuts.Cut,
    whole: bool,
    table: list[bytes] | None = None,
) -> Tokenizer:
    from tokenizers import models

    size = sum(map(len, made)) * (2 if merges else 1)
    if size > MAX_BYTES // 4:  # a letter takes up to two bytes, and merges spell every token once more
        raise InputError(
            f"a vocabulary of {size >> 20} MiB: the text repeats long parts of itself, which became tokens; drop "
            "repeated documents, or let merges end at words"
        )
    vocabulary = [*SPECIAL_TEXT.values(), *map(letters, BYTES), *made]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    return _tokenizer(models.BPE(vocab=numbers, merges=[*merges], ignore_merges=whole), cut, table)


def _tokenizer(model: Any, cut: cuts.Cut, table: list[bytes] | None = None) -> Tokenizer:
    from tokenizers import AddedToken

    backend = _frame(cut)
    backend.model = model
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL_TEXT.values()])
    return Tokenizer(backend, table=table)


def _frame(cut: cuts.Cut) -> Any:
    """The library's tokenizer with everything but a vocabulary."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders

    model: dict[str, Any] = {**_BPE, "ignore_merges": False, "vocab": {}, "merges": []}
    backend = Backend.from_str(
        json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": cut.pre_tokenizer, "model": model})
    )
    backend.decoder = decoders.ByteLevel()
    return backend


# ---- recognising ------------------------------------------------------------------------------------------------


def check(data: Any, origin: str) -> None:
    """DamagedError for the data of a file that is not one of the forms above."""
    if not isinstance(data, dict) or not isinstance(data.get("added_tokens"), list):
        raise DamagedError(f"{origin}: not a tokenizer of Fabula")
    model = data.get("model")
    for name in ("normalizer", "post_processor"):
        _same(name, data.get(name), None, origin)
    _same("decoder", data.get("decoder"), {"type": "ByteLevel"}, origin)
    for index, token in enumerate(data["added_tokens"]):
        _same(f"added_tokens[{index}]", token, _SPECIAL, origin)
        if token.get("content") not in SPECIAL_TEXT.values():
            raise DamagedError(f"{origin}: added token {token.get('content')!r:.40} is none of Fabula's special tokens")
    cut = cuts.named(data.get("pre_tokenizer"))
    if cut is None:
        raise DamagedError(
            f"{origin}: pre_tokenizer is {_short(data.get('pre_tokenizer'))}, none of Fabula's; not a tokenizer of "
            "Fabula"
        )
    if isinstance(model, dict) and model.get("type") == "Unigram":
        _check_unigram(data, cut, origin)
    else:
        _check_bpe(model, cut, origin)


def _check_bpe(model: Any, cut: str, origin: str) -> None:
    whole = cut == "characters"
    _same("model", model, {**_BPE, "ignore_merges": whole}, origin)
    vocabulary = model.get("vocab")
    for merge in model["merges"] if isinstance(model.get("merges"), list) else ():
        # Two tokens, or (as older files have it) their texts with a space between them.
        token = "".join(map(str, merge)) if isinstance(merge, list) else str(merge).replace(" ", "")
        if token in SPECIAL_TEXT.values():
            raise DamagedError(f"{origin}: its merges make the special token {token}; not a tokenizer of Fabula")
    # With holes between the ids the library counts through them, up to four thousand million.
    if not isinstance(vocabulary, dict) or set(vocabulary.values()) != set(range(len(vocabulary))):
        raise DamagedError(f"{origin}: the ids of its tokens are not 0, 1, 2 and so on without a hole")
    if whole and model.get("merges") != []:
        raise DamagedError(f"{origin}: it has both whole characters and merges; not a tokenizer of Fabula")


def _check_unigram(data: dict[str, Any], cut: str, origin: str) -> None:
    model = data["model"]
    _same("model", model, _UNIGRAM, origin)
    if cut not in cuts.WORDS:
        raise DamagedError(f"{origin}: a unigram model whose pieces are no words; not a tokenizer of Fabula")
    vocabulary = model.get("vocab")
    sound = isinstance(vocabulary, list) and all(
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and 1 <= len(entry[0]) <= LONGEST_PIECE
        and entry[0] not in SPECIAL_TEXT.values()
        and type(entry[1]) is float
        and math.isfinite(entry[1])
        and _LOWEST_SCORE <= entry[1] <= 0
        for entry in vocabulary
    )
    if not sound or len({piece for piece, _ in vocabulary}) != len(vocabulary):
        raise DamagedError(f"{origin}: its vocabulary is not a list of different pieces, each with a log-probability")
    if [token.get("id") for token in data["added_tokens"]] != list(
        range(len(vocabulary), len(vocabulary) + len(data["added_tokens"]))
    ):
        raise DamagedError(f"{origin}: the ids of its special tokens do not follow those of its pieces")


def is_native(data: Any) -> bool:
    """Whether the data of a tokenizer.json are those of a tokenizer of Fabula."""
    try:
        check(data, "")
    except DamagedError:
        return False
    return all(any(t["content"] == text for t in data["added_tokens"]) for text in SPECIAL_TEXT.values())


def n_ids(data: dict[str, Any]) -> int:
    """The number of ids of a file that is one of the forms."""
    vocabulary = data["model"]["vocab"]
    names = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    return len(names | {token["content"] for token in data["added_tokens"]})


def _same(name: str, found: Any, expected: Any, origin: str) -> None:
    """DamagedError unless everything expected is found, type for type."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            _same(f"{name}.{key}", found.get(key), value, origin)
    elif found != expected or type(found) is not type(expected):
        raise DamagedError(
            f"{origin}: {name} is {_short(found)}, not {json.dumps(expected)}; not a tokenizer of Fabula"
        )


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]
