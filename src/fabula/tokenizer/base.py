"""`Tokenizer`: text to ids and back, exactly.

Around Hugging Face's `tokenizers` (its `tokenizer.json` is our file format), with three promises that it does not
make by itself: every Unicode string comes back unchanged, special ids never come from content, and decoding goes
through bytes, so that ids which end in the middle of a character are no error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fabula import storage
from fabula.errors import DamagedError, FabulaError, InputError
from fabula.tokenizer import conversation
from fabula.tokenizer.special import SPECIAL_TEXT, SpecialTokens

if TYPE_CHECKING:
    from fabula.tokenizer.fast import Encoder

FILE = "tokenizer.json"

# Characters that one tokenizer is asked for before its fast encoder is made.
_MUCH = 1 << 16

# Capitals, accents in both forms, ligatures, spaces, controls and specials: what a changed file loses first.
_PROBE = "Él, e\u0301l  \t ﬁ² 漢字 🦊 \x00\x7f\r\n " + "".join(SPECIAL_TEXT.values()) + " Ωµ\u00a0 zas \n"


class Tokenizer:
    """A byte-level tokenizer with its special tokens and fingerprint."""

    # How to write a conversation (Jinja), where the tokenizer says it; what a text loses on its way, if it does.
    chat_template: str | None = conversation.DEFAULT
    changes: str | None = None
    # Threads of a batch (None: one a core).
    threads: int | None = None
    # What does the work once there is much of it, and how much there was.
    _encoder: Encoder | None = None
    _seen = 0

    def __init__(self, backend: Any, origin: str = "tokenizer", table: list[bytes] | None = None) -> None:
        # `backend` is a tokenizers.Tokenizer; its type is left open so that importing this module stays cheap.
        # `table` has the bytes of each id, from who made it and knows them; else they are read from the vocabulary.
        self._hold(backend)
        ids = {role: backend.token_to_id(text) for role, text in SPECIAL_TEXT.items()}
        missing = [SPECIAL_TEXT[role] for role, number in ids.items() if number is None]
        if missing:
            raise DamagedError(f"{origin}: no special token {', '.join(missing)}; not a tokenizer of Fabula")
        self.special = SpecialTokens(**ids)
        self.vocab_size: int = backend.get_vocab_size()
        self._bytes = table or _token_bytes(backend, set(self.special.ids()), self.vocab_size, origin)
        self._check(origin)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of what the tokenizer is."""
        return storage.hash_data(json.loads(self._backend.to_str()))

    def _hold(self, backend: Any) -> None:
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Read a `tokenizer.json` or the folder that holds one; DamagedError when it is none.

        One that was made elsewhere has its `special.json` beside it (see `foreign.py`).
        """
        from fabula.tokenizer import foreign

        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"no tokenizer at {file}")
        if file.with_name(foreign.FILE).is_file():
            return foreign.load(file)
        return read(file, lambda data, backend: _native(data, backend, str(file)))

    def _check(self, origin: str) -> None:
        """DamagedError unless the promises hold: all bytes are there, and a nasty text comes back."""
        missing = set(range(256)) - {b[0] for b in self._bytes if len(b) == 1}
        if missing:
            raise DamagedError(f"{origin}: {len(missing)} of the 256 bytes have no token (first: 0x{min(missing):02x})")
        ids = self.encode(_PROBE)
        if self.decode(ids) != _PROBE or set(ids) & set(self.special.ids()):
            raise DamagedError(f"{origin}: a text does not come back as it was; the file was changed by another tool")

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into a folder."""
        storage.write_text(folder / FILE, self.to_json())

    def to_json(self) -> str:
        """The text of `tokenizer.json`."""
        return str(self.shown().to_str(pretty=True)) + "\n"

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never a special one."""
        text = encodable(text)
        encoder = self._fast(len(text))
        if encoder is not None and encoder.takes(text):
            return encoder.encode(text)
        if len(text) >= _MUCH:
            # Where each token stands is not asked for: a quarter of the time, and less memory.
            return [*self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids]
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, on all threads."""
        texts = [encodable(text) for text in texts]
        encoder = self._fast(sum(map(len, texts)))
        if encoder is not None and all(map(encoder.takes, texts)):
            return encoder.encode_batch(texts, self.threads)
        return [e.ids for e in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _fast(self, characters: int) -> Encoder | None:
        """The fast encoder, if there is one; made when there is so much to do that it is worth a tenth of a second."""
        before, self._seen = self._seen, self._seen + characters
        if before < _MUCH <= self._seen:
            from fabula.tokenizer import fast

            self._encoder = fast.encoder(json.loads(self._backend.to_str()))
        return self._encoder

    def decode_bytes(self, ids: Iterable[int], specials: bool = False) -> bytes:
        """The bytes of ids; special ids vanish, or appear as their text with `specials`."""
        parts = []
        controls = self.controls if specials else frozenset()
        for number in ids:
            if not 0 <= number < self.vocab_size:
                raise InputError(f"id {number} is outside the vocabulary of {self.vocab_size}")
            parts.append(self._bytes[number])
            if number in controls:
                parts.append(str(self.shown().id_to_token(number)).encode("utf-8"))
        return b"".join(parts)

    def decode(self, ids: Iterable[int], specials: bool = False) -> str:
        """The text of ids. `decode(encode(s)) == s` for every s; bytes that form no character become U+FFFD."""
        return self.decode_bytes(ids, specials).decode("utf-8", errors="replace")

    def shown(self) -> Any:
        """The library's tokenizer as the file has it; `encode` may use one that is safer or faster."""
        return self._backend

    @property
    def controls(self) -> frozenset[int]:
        """The ids that no text gives: only templates and the ends of documents insert them."""
        return frozenset(self.special.ids())

    def control_texts(self) -> dict[str, int]:
        """The control tokens: what other tools show for them, and the id."""
        return {str(self.shown().id_to_token(number)): number for number in sorted(self.controls)}

    def byte_lengths(self) -> list[int]:
        """Bytes of text behind each id; 0 for special ids."""
        return [len(b) for b in self._bytes]


MAX_BYTES = 64 << 20


def read(file: Path, make: Callable[[Any, Any], Tokenizer]) -> Tokenizer:
    """A tokenizer made of a file's plain data and the library's reading of it; DamagedError when it cannot be read.

    `make` looks at the data first: it is given the library's tokenizer as a function, to call when they are sound.
    """
    from tokenizers import Tokenizer as Backend

    if file.stat().st_size > MAX_BYTES:
        raise DamagedError(f"{file}: larger than {MAX_BYTES >> 20} MiB; not a tokenizer of Fabula")

    def made() -> Tokenizer:
        text = file.read_text(encoding="utf-8")
        return make(json.loads(text, object_pairs_hook=once), lambda: Backend.from_str(text))

    return guarded(made, str(file))


_Made = TypeVar("_Made")


def guarded(make: Callable[[], _Made], origin: str) -> _Made:
    """What `make` makes of a file; DamagedError for whatever it raises that is no error of ours."""
    try:
        return make()
    except FabulaError:
        raise
    except BaseException as error:
        # The Rust side panics on some damaged files, with an exception outside the tree of Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedError(f"{origin}: not a tokenizer that can be read ({said})") from None


def _native(data: Any, backend: Any, origin: str) -> Tokenizer:
    from fabula.tokenizer import forms

    forms.check(data, origin)
    return Tokenizer(backend(), origin)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different: of two equal ones the library may take the other than we checked."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return made


def _token_bytes(backend: Any, special: set[int], vocab_size: int, origin: str) -> list[bytes]:
    letters = _Letters((ord(letter), byte) for letter, byte in byte_of_letter().items())
    table = [b""] * vocab_size
    for token, number in backend.get_vocab().items():
        if number not in special:
            try:
                table[number] = token.translate(letters).encode("latin-1")
            except UnicodeEncodeError:
                raise DamagedError(f"{origin}: token {number} ({token!r}) is not byte-level") from None
    return table


class _Letters(dict[int, int]):
    """From letters to bytes; what is no letter becomes something that is no byte."""

    def __missing__(self, letter: int) -> int:
        return 0xFFFF


def byte_of_letter() -> dict[str, int]:
    """The letters by which byte-level vocabularies write the 256 bytes (GPT-2's table).

    Printable bytes stand for themselves, the other 68 take the letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    table.update({chr(0x100 + i): b for i, b in enumerate(others)})
    return table


def encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"character {error.start} of the text is a lone surrogate (U+{ord(text[error.start]):04X}); "
            "it is not a character of Unicode and cannot be encoded"
        ) from None
    return text
