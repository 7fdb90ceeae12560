"""Which documents are for validation, and which were seen before. Nothing here reads files.

Both answers depend on a document's text alone. So a document cannot be in both splits, adding text to a
corpus never moves a document across, and the order of reading does not matter.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b
from types import TracebackType
from typing import Literal

from fabula.errors import MachineError

Split = Literal["train", "validation"]

KEY_BYTES = 16
_CACHE_MIB = 16


def content_key(text: str | bytes) -> bytes:
    """A 16-byte BLAKE2b of a text's UTF-8 form: equal texts, equal keys.

    With 10^9 documents the chance that any two different texts share a key is about 10^-21.
    """
    return blake2b(text.encode("utf-8") if isinstance(text, str) else text, digest_size=KEY_BYTES).digest()


def position_of(key: bytes, seed: int, purpose: bytes = b"split") -> float:
    """A number in [0, 1) for a key: uniform over keys, independent between seeds (>= 0) and purposes."""
    digest = blake2b(key, digest_size=8, key=b"%d" % seed, person=purpose).digest()
    # 53 bits are what a float holds exactly; one bit more could round up to 1.
    return float((int.from_bytes(digest, "big") >> 11) / (1 << 53))


def split_of(key: bytes, seed: int, validation_share: float) -> Split:
    """The split of a document, from its key alone.

    Raising the share moves documents from train to validation, never the other way.
    """
    return "validation" if position_of(key, seed) < validation_share else "train"


class Seen:
    """The exact set of keys met so far, on disk, in a fixed amount of memory.

    A temporary SQLite database with an empty name: it spills to the system's temporary folder (about 25 bytes
    a key) once it outgrows its cache, and the system removes it with the process, however that ends. One
    transaction without a journal, since nothing of it outlives the pass. A key is inserted at once:
    collecting batches in memory first was slower, because each needed a look-up as well.
    """

    def __init__(self) -> None:
        self._database = temporary("CREATE TABLE seen(key BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, key: bytes) -> bool:
        """Remember a key; whether it is new. MachineError when the temporary folder is full."""
        try:
            return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount > 0
        except sqlite3.OperationalError as error:
            raise no_room(error) from error

    def __contains__(self, key: bytes) -> bool:
        try:
            return self._database.execute("SELECT 1 FROM seen WHERE key = ?", (key,)).fetchone() is not None
        except sqlite3.OperationalError as error:
            raise no_room(error) from error

    def close(self) -> None:
        """Let go of the memory and the disk space; harmless when repeated."""
        self._database.close()

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def temporary(*tables: str) -> sqlite3.Connection:
    """A database for one pass, with its tables: on disk where it outgrows 32 MiB, gone with the process.

    The consumer of a stream may be another thread than its maker, never two at once.
    """
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_MIB << 10}"):
        database.execute(f"PRAGMA {pragma}")
    for table in tables:
        database.execute(table)
    database.execute("BEGIN")
    return database


def no_room(error: sqlite3.OperationalError) -> MachineError:
    """The error when the temporary folder is full."""
    return MachineError(
        f"the list of documents already seen could not be kept in the temporary folder ({error}); "
        "free some space there, or point TMPDIR at another disk"
    )
