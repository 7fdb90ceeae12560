"""A process that tokenizes: `python -m fabula.data.worker TOKENIZER_FILE`, started and fed by `encoding.py`.

It reads requests from its input and writes one reply to each. Everything is framed: eight bytes of length, then the
content. Numbers are little-endian.

    first reply   JSON: {"fingerprint": ...} of the tokenizer, or {"error": ...}
    request       texts: for each four bytes of length, then UTF-8
    reply         for each text four bytes of count, then the ids with four bytes each; or FAILED, then four bytes of
                  length and what the tokenizer said

It ends when its input does, also in the middle of a text: whoever kills its parent, it does not stay behind.
"""

from __future__ import annotations

import array
import json
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fabula.tokenizer.base import Tokenizer

FAILED = 0xFFFFFFFF

_LENGTH = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_GRACE = 1.0


class Readable(Protocol):
    """What frames are read from."""

    def read(self, size: int, /) -> bytes | None: ...


class Writable(Protocol):
    """What frames are written to."""

    def write(self, content: bytes, /) -> object: ...

    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A text for which there are no ids, and why."""

    reason: str


def encode_each(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int] | Failure]:
    """The ids of each text, or what the tokenizer said when it failed on it: one text does not harm the others."""
    try:
        return list(tokenizer.encode_batch(texts))
    except BaseException as error:
        failure = _failure(error)
    if len(texts) == 1:
        return [failure]
    return [result for text in texts for result in encode_each(tokenizer, [text])]


def _failure(error: BaseException) -> Failure:
    """A failure of the tokenizer; raises what is none. Panics of its Rust side are not in the tree of Exception."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error
    said = (str(error).splitlines() or [""])[0]
    return Failure(f"the tokenizer failed on it: {said or type(error).__name__}")


# ---- frames ------------------------------------------------------------------------------------------------


def read_frame(file: Readable) -> bytes | None:
    """The next frame; None where the other side ended, be it in the middle of one."""
    head = _read(file, _LENGTH.size)
    return None if head is None else _read(file, _LENGTH.unpack(head)[0])


def write_frame(file: Writable, content: bytes) -> None:
    """Write one frame at once."""
    file.write(_LENGTH.pack(len(content)) + content)
    file.flush()


def pack_texts(texts: Sequence[str]) -> bytes:
    """A request."""
    parts = []
    for text in texts:
        raw = text.encode("utf-8")
        parts += [_COUNT.pack(len(raw)), raw]
    return b"".join(parts)


def unpack_texts(frame: bytes) -> list[str]:
    """The texts of a request."""
    return [raw.decode("utf-8") for raw in _parts(frame)]


def pack_results(results: Sequence[Sequence[int] | Failure]) -> bytes:
    """A reply."""
    parts = []
    for result in results:
        if isinstance(result, Failure):
            raw = result.reason.encode("utf-8", "backslashreplace")
            parts += [_COUNT.pack(FAILED), _COUNT.pack(len(raw)), raw]
            continue
        ids = array.array("I", result)
        if sys.byteorder == "big":
            ids.byteswap()
        parts += [_COUNT.pack(len(ids)), ids.tobytes()]
    return b"".join(parts)


def unpack_results(frame: bytes) -> list[memoryview | Failure]:
    """The results of a reply: ids as their bytes, four each."""
    results: list[memoryview | Failure] = []
    view, place = memoryview(frame), 0
    while place < len(view):
        (count,) = _COUNT.unpack_from(view, place)
        place += _COUNT.size
        if count == FAILED:
            (length,) = _COUNT.unpack_from(view, place)
            place += _COUNT.size
            results.append(Failure(bytes(view[place : place + length]).decode("utf-8")))
        else:
            length = 4 * count
            results.append(view[place : place + length])
        place += length
    return results


def _parts(frame: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(frame):
        (length,) = _COUNT.unpack_from(frame, place)
        place += _COUNT.size
        yield frame[place : place + length]
        place += length


def _read(file: Readable, size: int) -> bytes | None:
    parts = []
    while size:
        part = file.read(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# ---- the process -------------------------------------------------------------------------------------------


def main(tokenizer_file: Path) -> None:
    """Answer requests until there are no more."""
    # Ctrl-C reaches every process of a terminal; what it means is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from fabula.errors import FabulaError
    from fabula.tokenizer.base import Tokenizer

    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    replies = sys.stdout.buffer
    # Whatever a library prints must not get between the replies.
    sys.stdout = sys.stderr
    try:
        tokenizer = Tokenizer.load(tokenizer_file)
        tokenizer.threads = 1  # there is a process for each core
    except FabulaError as error:
        write_frame(replies, json.dumps({"error": str(error)}).encode())
        return
    write_frame(replies, json.dumps({"fingerprint": tokenizer.fingerprint}).encode())
    while (frame := requests.get()) is not None:
        write_frame(replies, pack_results(encode_each(tokenizer, unpack_texts(frame))))


def _listen(requests: queue.SimpleQueue[bytes | None]) -> None:
    """Hand on what comes; when nothing comes any more, see to it that this process ends."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as file:
        while (frame := read_frame(file)) is not None:
            requests.put(frame)
    requests.put(None)
    time.sleep(_GRACE)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
