"""Layer bytes: open a blob, undo its compression (told by its magic number) and hash what comes out."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Protocol, cast

from podling.runtime.images.errors import InvalidImageError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\x00"
BZIP2_MAGIC = b"BZh"
_CHUNK = 256 << 10
_GZIP_WBITS = 31  # zlib.h, inflateInit2: 16 + 15, a gzip header and the largest window


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Gunzip:
    """Streaming gunzip with bounded output per read, so that a bomb is met by the unpacker's limits first."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._engine = zlib.decompressobj(_GZIP_WBITS)
        self._pending = b""

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._engine.eof:  # one member ended; another may follow (RFC 1952, section 2.2)
                self._pending = self._engine.unused_data or self._pending
                rest = (self._pending or self._source.read(_CHUNK)).lstrip(b"\0")
                if not rest:
                    return b""
                self._engine, self._pending = zlib.decompressobj(_GZIP_WBITS), rest
            data = self._pending or self._source.read(_CHUNK)
            if not data:
                raise InvalidImageError("layer ends in the middle of its gzip stream")
            try:
                out = self._engine.decompress(data, _CHUNK if size < 0 else size)
            except zlib.error as err:
                raise InvalidImageError(f"layer is not valid gzip: {err}") from err
            self._pending = self._engine.unconsumed_tail
            if out:
                return out


class HashingReader:
    """Hands on what it reads, and keeps its SHA-256. `read` may return less than asked."""

    def __init__(self, source: Reader, compressed: str = "", *, limit_bytes: int | None = None) -> None:
        """`compressed` names what was undone: gzip, zstd, xz, bzip2 or empty."""
        self.compressed = compressed
        self._source = source
        self._limit_bytes = limit_bytes
        self._left = limit_bytes
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise InvalidImageError(f"layer unpacks to more than {self._limit_bytes} bytes")
        self._sha256.update(data)
        return data

    def drain(self) -> None:
        """Read to the end: tar padding belongs to the digest, too."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


@contextmanager
def open_plain(path: Path, *, limit_bytes: int | None = None) -> Iterator[HashingReader]:
    """The uncompressed content of the file at `path`: plain, gzip, zstd, xz or bzip2. More than
    `limit_bytes` of it is an `InvalidImageError`, whatever it holds: padding costs time, too."""
    # Unbuffered: a decompression program goes on from the descriptor's own position.
    with open(path, "rb", buffering=0) as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(GZIP_MAGIC):
            yield HashingReader(_Gunzip(file), "gzip", limit_bytes=limit_bytes)
            return
        for prefix, program in ((ZSTD_MAGIC, "zstd"), (XZ_MAGIC, "xz"), (BZIP2_MAGIC, "bzip2")):
            if magic.startswith(prefix):
                with _program(program, file) as reader:
                    yield HashingReader(reader, program, limit_bytes=limit_bytes)
                return
        yield HashingReader(file, limit_bytes=limit_bytes)


@contextmanager
def _program(name: str, file: FileIO) -> Iterator[IO[bytes]]:
    """Decompression by the distribution's program: Python has zstd from 3.14 only."""
    program = shutil.which(name)
    if program is None:
        raise InvalidImageError(
            f"layer is compressed with {name}, and there is no {name} program", f"apt install {name}"
        )
    with subprocess.Popen(
        [program, "-dcq"] if name != "bzip2" else [program, "-dc"],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield cast("IO[bytes]", process.stdout)
        except BaseException:
            process.kill()
            raise
        # Everything was read, or the reader is content; a broken stream shows in the exit code.
        if process.stdout is not None:
            process.stdout.close()
        message = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if process.wait() > 0:
            raise InvalidImageError(f"layer is not valid {name}: {message}")
