"""Files as streams of bytes and lines: decompressed, past a byte-order mark, with positions, in bounded
memory.

A line ends at LF and nowhere else (`str.splitlines` would also cut at U+2028, which is content). Every
failure of the file itself becomes a SourceError here, so that readers only meet bytes.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from fabula.corpus.document import MAX_DOCUMENT_BYTES
from fabula.errors import SourceError, require_extra

BLOCK_BYTES = 1 << 18
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
UTF8_MARK = b"\xef\xbb\xbf"

_FIRST_BLOCK = 8192
# The longer marks first: UTF-32 (little endian) begins like UTF-16.
_FOREIGN_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file to read: where it is, and the name that its documents carry as their origin."""

    path: Path
    name: str


class Line(NamedTuple):
    """A line with its end. `number` counts from 1, `byte` from 0; `raw` is None when it is above the size limit."""

    number: int
    byte: int
    raw: bytes | None


def lines(path: Path) -> Iterator[Line]:
    """The lines of a file. One longer than the document limit is passed over without being held."""
    with opened(path) as (stream, byte):
        number = 1
        while raw := stream.readline(MAX_DOCUMENT_BYTES + 1):
            length = len(raw)
            if length <= MAX_DOCUMENT_BYTES or raw.endswith(b"\n"):
                yield Line(number, byte, raw)
            else:
                while rest := stream.readline(BLOCK_BYTES):
                    length += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield Line(number, byte, None)
            byte += length
            number += 1


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file's decompressed bytes past a UTF-8 byte-order mark, and the offset where they start (0 or 3).

    Raises SourceError for a file that cannot be opened, that looks binary, or that is UTF-16 or UTF-32.
    """
    start = head(path, _FIRST_BLOCK)
    with _open(path) as stream:
        skipped = len(stream.read(len(UTF8_MARK))) if start.startswith(UTF8_MARK) else 0
        yield stream, skipped


def head(path: Path, size: int) -> bytes:
    """The first `size` bytes of a text file, decompressed; the same errors as `opened`."""
    with _open(path) as stream:
        start = stream.read(size)
    for mark, encoding in _FOREIGN_MARKS:
        if start.startswith(mark):
            raise SourceError(
                f"{path}: the text is {encoding}, only UTF-8 is read; convert it with: "
                f"iconv -f {encoding} -t UTF-8 OLD > NEW"
            )
    if b"\0" in start[:_FIRST_BLOCK]:
        at = start.index(b"\0")
        raise SourceError(
            f"{path}: not a text file (byte {at} is NUL); give text in UTF-8, or leave the file out of the source"
        )
    return start


def expansion(path: Path) -> float:
    """Bytes of text per byte on disk: 1 for a plain file, measured on the first MiB of a compressed one."""
    if path.suffix.lower() not in COMPRESSED:
        return 1.0
    with guarded(path), path.open("rb") as file:
        text = _Decompressed(path, file)
        wanted, size = 1 << 20, 0
        while size < wanted and (chunk := text.read(BLOCK_BYTES)):
            size += len(chunk)
        return size / max(1, file.tell())


def _open(path: Path) -> BinaryIO:
    with guarded(path):
        file = io.FileIO(path)
    try:
        return cast(BinaryIO, io.BufferedReader(_Decompressed(path, file), BLOCK_BYTES))
    except BaseException:
        file.close()
        raise


class _Chunks(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class _Decompressed(io.RawIOBase):
    """A file's bytes, decompressed by its suffix; what goes wrong below comes out as SourceError.

    Errors are translated here and not around the reading loop, where those of the consumer would be caught
    too.
    """

    def __init__(self, path: Path, file: io.RawIOBase | BinaryIO) -> None:
        self._path = path
        self._file = file
        suffix = path.suffix.lower()
        self._chunks: _Chunks
        if suffix == ".gz":
            self._chunks = gzip.GzipFile(fileobj=cast(BinaryIO, file))
        elif suffix == ".bz2":
            self._chunks = bz2.BZ2File(cast(BinaryIO, file))
        elif suffix == ".xz":
            self._chunks = _Xz(cast(BinaryIO, file))
        elif suffix == ".zst":
            self._chunks = _Zstandard(cast(BinaryIO, file))
        else:
            self._chunks = cast(BinaryIO, file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with guarded(self._path):
            chunk = self._chunks.read(len(buffer)) or b""
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Xz:
    """XZ streams, decompressed in a stated amount of memory (the library's file reader takes what a file asks for)."""

    # What the highest level of compression (xz -9) asks for is 65 MiB.
    _MEMORY = 128 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream: lzma.LZMADecompressor | None = None
        self._ahead = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._stream is not None and self._stream.eof:
                # Streams follow each other with zeros between, in steps of four.
                self._ahead, self._stream = self._stream.unused_data.lstrip(b"\0"), None
            if self._stream is None or self._stream.needs_input:
                self._ahead = self._ahead or self._file.read(BLOCK_BYTES)
                if self._stream is None:
                    self._ahead = self._ahead.lstrip(b"\0")
                if not self._ahead:
                    if self._stream is not None:
                        raise EOFError("it ends in the middle of a stream")
                    if not (more := self._file.read(BLOCK_BYTES)):
                        return b""
                    self._ahead = more
                    continue
            try:
                self._stream = self._stream or lzma.LZMADecompressor(lzma.FORMAT_XZ, self._MEMORY)
                chunk, self._ahead = self._stream.decompress(self._ahead, size), b""
            except lzma.LZMAError as error:
                if "emory" in str(error):
                    raise EOFError(f"it asks for more than {self._MEMORY >> 20} MiB of memory to be read") from None
                raise EOFError(str(error)) from None
            if chunk:
                return chunk


class _Zstandard:
    """Zstandard frames, decompressed; notices a truncated file (the library's own reader just stops)."""

    # So little at a time because the library returns all that a piece expands to: up to 128 KiB for every 4 bytes,
    # so at most 8 MiB. Larger pieces are faster by a quarter (measured: 630 against 830 MB of text a second).
    _PIECE_BYTES = 256

    def __init__(self, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError:
            raise require_extra("zstandard", "corpus", "reading .zst files") from None
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._error: type[Exception] = zstandard.ZstdError
        self._file = file
        self._frame = self._make()
        self._started = False
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._ready:
            piece = self._file.read(self._PIECE_BYTES)
            if not piece:
                if self._started:
                    raise EOFError("it ends in the middle of a frame")
                return b""
            self._ready = memoryview(self._feed(piece))
        chunk, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return chunk

    def _feed(self, piece: bytes) -> bytes:
        parts = []
        try:
            while piece:
                parts.append(self._frame.decompress(piece))
                self._started = True
                piece = b""
                if self._frame.eof:
                    piece = self._frame.unused_data
                    self._frame = self._make()
                    self._started = False
        except self._error as error:
            raise EOFError(str(error)) from None
        return b"".join(parts)


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into a SourceError that says what to do."""
    try:
        yield
    except PermissionError:
        raise SourceError(f"{path}: no permission to read it; change its permissions or copy it") from None
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file (was it moved while being read?)") from None
    except IsADirectoryError:
        raise SourceError(f"{path}: a folder stands where a file was expected") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path}: the compressed file is damaged ({error}); make or fetch it again") from None
    except OSError as error:
        if error.errno is None and path.suffix.lower() == ".bz2":
            # What the library says of damage is an OSError without a number.
            raise SourceError(f"{path}: the compressed file is damaged ({error}); make or fetch it again") from None
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the disk") from error
