"""Byte-pair encodings that other tools keep in files of their own: as a `tokenizer.json`, with the other tool's reading
of the same file beside it to compare with.

    GPT-2        vocab.json (text -> id) and merges.txt, over the letters that stand for bytes
    tiktoken     a line for each token: its bytes in base64, its rank; the pattern is known by a name only
    Alexandria   merges as "(a, b)": id over ids; merges go across words, there is no pattern; the texts of tokens are
                 for the eye (a space is a dot, half a character is U+FFFD), so bytes are rebuilt from the merges
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fabula.config import Data
from fabula.errors import DamagedError, InputError, nearest
from fabula.tokenizer.base import byte_of_letter, once
from fabula.tokenizer.foreign import Special
from fabula.tokenizer.foreign_forms import PATTERNS

END = "<|endoftext|>"
_MAX_TOKENS = 1 << 20
_MAX_BYTES = 64 << 20
_LETTER = {byte: letter for letter, byte in byte_of_letter().items()}
_HOUSE = {name: pattern for pattern, name in PATTERNS.items()}


@dataclass(frozen=True, slots=True)
class Made:
    """A `tokenizer.json` in the making."""

    data: Data
    special: Special
    reference: Callable[[str], list[int]]  # the ids of the tool it comes from
    library: str  # that tool
    notes: list[str] = field(default_factory=list)
    # A text as the other tool reads it before it cuts; None where it reads what is there.
    normalize: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class _Rank:
    """What a name of tiktoken's stands for: its pattern, ours, the number of ranks and the control tokens."""

    pattern: str
    ours: str
    size: int
    controls: dict[str, int]


# ` ?\p{L}++`: possessive, faster and the same. The last alternatives of cl100k keep the blanks at the end together.
NAMED = {
    "gpt2": _Rank(
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        _HOUSE["GPT-2"],
        50256,
        {END: 50256},
    ),
    "cl100k": _Rank(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s",
        _HOUSE["cl100k"],
        100256,
        {
            END: 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k": _Rank(_HOUSE["GPT-4o"], _HOUSE["GPT-4o"], 199998, {END: 199999, "<|endofprompt|>": 200018}),
}  # fmt: skip
_ALIASES = {"r50k": "gpt2", "r50k_base": "gpt2", "cl100k_base": "cl100k", "o200k_base": "o200k"}


def small_text(file: Path) -> str:
    """The text of a file of a tokenizer; InputError when it is missing, DamagedError when it is none."""
    if not file.is_file():
        raise InputError(f"no file {file}")
    if file.stat().st_size > _MAX_BYTES:
        raise DamagedError(f"{file}: larger than {_MAX_BYTES >> 20} MiB; not a tokenizer")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"{file}: not UTF-8 text") from None


def small_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a tokenizer, without a key that stands twice."""
    try:
        data = json.loads(small_text(file), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{file}: not JSON that can be read ({str(error).splitlines()[0]})") from None
    if not isinstance(data, dict):
        raise DamagedError(f"{file}: not a JSON object")
    return data


# ---- GPT-2 -----------------------------------------------------------------------------------------------------


def gpt2(folder: Path, end: str | None = None) -> Made:
    """The tokenizer of a vocab.json and a merges.txt."""
    vocab, merges = _vocab(folder / "vocab.json"), _merges(folder / "merges.txt")
    where = folder / "merges.txt"
    made = dict.fromkeys(_LETTER.values())
    missing = [letter for letter in made if letter not in vocab]
    if missing:
        raise DamagedError(f"{folder / 'vocab.json'}: {len(missing)} of the 256 bytes have no token")
    for line, (left, right) in merges:
        for part in (left, right):
            if part not in made:
                raise DamagedError(f"{where}: line {line} joins {part!r:.40}, which no line before it makes")
        if left + right not in vocab:
            raise DamagedError(f"{where}: line {line} makes {left + right!r:.40}, which vocab.json does not have")
        if left + right in made:
            raise DamagedError(f"{where}: line {line} makes {left + right!r:.40} a second time")
        made[left + right] = None
    controls = {text: number for text, number in vocab.items() if text not in made}
    end = _end(end, controls, vocab, folder)
    pairs = [pair for _, pair in merges]
    special = {**controls, end: vocab.get(end, len(vocab))}
    notes = []
    if set(controls) - {end}:
        notes.append(f"control tokens, since no merge makes them: {_listed(controls)}")
    data = _byte_level(vocab, pairs, special, {"type": "ByteLevel", "use_regex": True})
    return Made(data, Special({"end_of_document": end}, _size(data)), _tiktoken_of(made, vocab), "tiktoken", notes)


def _vocab(file: Path) -> dict[str, int]:
    vocab = small_json(file)
    if any(type(i) is not int for i in vocab.values()) or set(vocab.values()) != set(range(len(vocab))):
        raise DamagedError(f"{file}: the ids of its tokens are not 0, 1, 2 and so on, each once")
    return vocab


def _merges(file: Path) -> list[tuple[int, tuple[str, str]]]:
    found = []
    for line, text in enumerate(small_text(file).split("\n"), 1):
        text = text.removesuffix("\r")
        if not text or (line == 1 and text.startswith("#version")):
            continue
        parts = text.split(" ")
        if len(parts) != 2 or not all(parts):
            raise DamagedError(f"{file}: line {line} is not two tokens with a space between them")
        found.append((line, (parts[0], parts[1])))
    return found


def _end(given: str | None, controls: dict[str, int], vocab: dict[str, int], where: Path) -> str:
    """The text of the token that ends a document: the given one, or the usual one that there is."""
    if given is None:
        for usual in (END, "</s>", "<eos>", "<EOS>"):
            if usual in controls:
                return usual
        raise InputError(f"{where}: no token ends a document; name or add one: --end-of-document TEXT")
    if not given or (given in vocab and given not in controls):
        raise InputError(f"--end-of-document {given!r} is a token of text; name a control token or a new one")
    return given


def _tiktoken_of(made: dict[str, None], vocab: dict[str, int]) -> Callable[[str], list[int]]:
    """GPT-2's ids as tiktoken gives them: the order of the merges is the rank."""
    import tiktoken

    letters = byte_of_letter()
    ranks = {bytes(letters[c] for c in text): rank for rank, text in enumerate(made)}
    ids = [vocab[text] for text in made]
    encoding = tiktoken.Encoding("imported", pat_str=NAMED["gpt2"].pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: [ids[rank] for rank in encoding.encode_ordinary(text)]


# ---- tiktoken --------------------------------------------------------------------------------------------------


def tiktoken_ranks(file: Path, pattern: str | None, end: str | None = None) -> Made:
    """The tokenizer of a file of ranks, with the pattern of that name."""
    import tiktoken

    if pattern is None:
        raise InputError(f"{file}: a file of ranks does not say its pattern; name it: --pattern {'|'.join(NAMED)}")
    named = NAMED.get(_ALIASES.get(pattern, pattern))
    if named is None:
        raise InputError(f"--pattern {pattern!r} is not known; {nearest(pattern, [*NAMED, *_ALIASES])}")
    ranks = _ranks(file)
    if end is None and len(ranks) == named.size:
        controls, end = dict(named.controls), END
    else:
        end = end or END
        controls = {end: max(ranks.values()) + 1}
    numbers = {*ranks.values(), *controls.values()}
    holes = sorted(set(range(max(numbers) + 1)) - numbers)
    if len(holes) > 1024:
        raise DamagedError(f"{file}: {len(holes):,} ranks are missing (first: {holes[0]:,})")
    special = {**controls, **{f"<|reserved_{number}|>": number for number in holes}}
    text = {token: "".join(_LETTER[byte] for byte in token) for token in ranks}
    vocab = {text[token]: number for token, number in ranks.items()}
    taken = sorted(set(special) & set(vocab))
    if taken:
        raise DamagedError(f"{file}: {taken[0]!r} is a token of text and a control token")
    # Inside the ranks a control token has to be one of the vocabulary, or its id would be another.
    vocab.update({name: number for name, number in special.items() if number < max(ranks.values())})
    pairs = [(text[left], text[right]) for left, right in _splits(ranks)]
    split = {"type": "Split", "pattern": {"Regex": named.ours}, "behavior": "Isolated", "invert": False}
    cutting = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
    # A word that is a token as a whole is looked up, not merged: some tokens cannot be reached by merges.
    data = _byte_level(vocab, pairs, special, cutting, ignore_merges=True)
    encoding = tiktoken.Encoding("imported", pat_str=named.pattern, mergeable_ranks=ranks, special_tokens=controls)
    notes = [f"{len(holes)} ids that no token has are reserved control tokens"] if holes else []
    return Made(data, Special({"end_of_document": end}, _size(data)), encoding.encode_ordinary, "tiktoken", notes)


def _ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    taken: dict[int, int] = {}
    for line, text in enumerate(small_text(file).split("\n"), 1):
        if not text.strip():
            continue
        parts = text.split()
        try:
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
            sound = len(parts) == 2 and bool(token) and 0 <= rank < _MAX_TOKENS and len(parts[1]) < 9
        except (ValueError, IndexError, binascii.Error):
            sound = False
        if not sound:
            raise DamagedError(f"{file}: line {line} is not a token in base64 and its rank")
        if token in ranks:
            raise DamagedError(f"{file}: line {line} has the token of rank {ranks[token]} again: two ids for one text")
        if rank in taken:
            raise DamagedError(f"{file}: lines {taken[rank]} and {line} have the same rank {rank}")
        ranks[token], taken[rank] = rank, line
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DamagedError(f"{file}: {len(missing)} of the 256 bytes have no rank (first: 0x{missing[0]:02x})")
    return ranks


def _splits(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges by which tiktoken makes each token: it joins any two neighbours whose whole has a rank."""
    longest = 512
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > longest:
            raise DamagedError(f"the token of rank {ranks[token]} is {len(token):,} bytes long; {longest} is the most")
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        # Only parts that are there before the whole is.
        cuts = [cut for cut in cuts if max(ranks[cut[0]], ranks[cut[1]]) < ranks[token]]
        found += sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    return found


# ---- Alexandria ------------------------------------------------------------------------------------------------

_PAIR = re.compile(r"\(([0-9]{1,7}), ([0-9]{1,7})\)")
_CONTROL = re.compile(r"<[A-Z]{2,12}>")


def alexandria(file: Path, end: str | None = None) -> Made:
    """The tokenizer of a file with `vocab_str` and `merges`."""
    data = small_json(file)
    texts, given = data.get("vocab_str"), data.get("merges")
    if not isinstance(texts, dict) or not isinstance(given, dict):
        raise DamagedError(f"{file}: no vocab_str and merges; not a tokenizer of Alexandria")
    controls: dict[str, int] = {}
    for number in range(256, 256 + 16):
        name = texts.get(str(number))
        if not isinstance(name, str) or not _CONTROL.fullmatch(name):
            break
        if name in controls:
            raise DamagedError(f"{file}: ids {controls[name]} and {number} are both the control token {name}")
        controls[name] = number
    first = 256 + len(controls)
    pieces: dict[int, bytes] = {byte: bytes([byte]) for byte in range(256)}
    merges = _alexandria_merges(file, given, first)
    known: dict[bytes, int] = {piece: number for number, piece in pieces.items()}
    for number, (left, right) in enumerate(merges, first):
        if max(left, right) >= number or left not in pieces or right not in pieces:
            raise DamagedError(
                f"{file}: the merge ({left}, {right}) of token {number} uses a token that is not made yet"
            )
        pieces[number] = piece = pieces[left] + pieces[right]
        if len(piece) > 1 << 12:
            raise DamagedError(f"{file}: token {number} is longer than 4,096 bytes")
        if piece in known:
            raise DamagedError(
                f"{file}: tokens {known[piece]} and {number} collide: two ids for the text {piece!r}; learn the "
                "tokenizer anew (fabula tokenizer train --boundary none), where every text has one id"
            )
        known[piece] = number
    size = first + len(merges)
    beyond = [key for key in texts if not key.isdecimal() or int(key) >= size]
    if beyond:
        raise DamagedError(f"{file}: vocab_str has {beyond[0]!r:.20}, a token that no merge makes")
    end = _end(end, controls, {}, file)
    special = {**controls, end: controls.get(end, size)}
    roles = {"end_of_document": end}
    notes = ["merges go across words, as there: a text is one piece"]
    if "<PAD>" in controls and end != "<PAD>":
        roles["padding"] = "<PAD>"
    else:
        shown = texts.get("258")
        notes.append(f"there is no padding token: id 258 is the text {shown!r}, whatever it was used for there")
    text = {number: "".join(_LETTER[byte] for byte in piece) for number, piece in pieces.items()}
    vocab = {**{text[number]: number for number in text}, **controls}
    pairs = [(text[left], text[right]) for left, right in merges]
    made = _byte_level(vocab, pairs, special, {"type": "ByteLevel", "use_regex": False})
    ranks = {pair: number for number, pair in enumerate(merges, first)}
    return Made(made, Special(roles, _size(made)), lambda text: lowest_first(text, ranks), "Alexandria's rule", notes)


def _alexandria_merges(file: Path, given: dict[str, Any], first: int) -> list[tuple[int, int]]:
    """The merges in the order of their ids, which are `first`, `first` + 1 and so on."""
    found: dict[int, tuple[int, int]] = {}
    for key, number in given.items():
        pair = _PAIR.fullmatch(key)
        if pair is None or type(number) is not int:
            raise DamagedError(f"{file}: {key!r:.40} is not a merge of two ids into one")
        if number < first:
            raise DamagedError(f"{file}: the merge {key} makes id {number}, which is a byte's or a control token's")
        if number in found:
            raise DamagedError(f"{file}: the merges {found[number]} and {key} make the same id {number}")
        found[number] = (int(pair[1]), int(pair[2]))
    if sorted(found) != list(range(first, first + len(found))):
        raise DamagedError(f"{file}: the ids of its merges are not {first}, {first + 1} and so on without a hole")
    return [found[number] for number in sorted(found)]


def lowest_first(text: str, ranks: dict[tuple[int, int], int]) -> list[int]:
    """Byte-pair encoding word for word: of all pairs the one with the lowest id, everywhere from the left, and again.

    Time in proportion to the square of the text: for comparing, not for use.
    """
    ids = list(text.encode("utf-8"))
    while True:
        best = min((ranks[pair] for pair in itertools.pairwise(ids) if pair in ranks), default=None)
        if best is None:
            return ids
        made: list[int] = []
        place = 0
        while place < len(ids):
            if ranks.get((ids[place], ids[place + 1] if place + 1 < len(ids) else -1)) == best:
                made.append(best)
                place += 2
            else:
                made.append(ids[place])
                place += 1
        ids = made


# ---- what they become ------------------------------------------------------------------------------------------


def _byte_level(
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    special: dict[str, int],
    cutting: Data,
    ignore_merges: bool = False,
) -> Data:
    """A `tokenizer.json` over bytes."""
    level = {"add_prefix_space": False, "trim_offsets": False}
    if cutting["type"] == "Sequence":
        *steps, last = cutting["pretokenizers"]
        cutting = {**cutting, "pretokenizers": [*steps, {**last, **level}]}
    else:
        cutting = {**cutting, **level}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [control(text, number) for text, number in sorted(special.items(), key=lambda item: item[1])],
        "normalizer": None,
        "pre_tokenizer": cutting,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip


def control(text: str, number: int) -> Data:
    """A control token as `tokenizer.json` writes it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": text, **flags}


def _size(data: Data) -> int:
    return len({*data["model"]["vocab"].values(), *(token["id"] for token in data["added_tokens"])})


def _listed(names: Sequence[str] | dict[str, int]) -> str:
    few = [repr(name) for name in list(names)[:5]]
    return ", ".join(few) + (" and more" if len(names) > 5 else "")
