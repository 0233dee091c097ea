"""SPDY header blocks: name/value pairs, compressed with zlib and a dictionary both sides know beforehand.

SPDY draft 3.1, section 2.6.10 "Name/Value Header Block" and 2.6.10.1 "Compression". One compression context
lives as long as the connection in each direction, so every block must pass through in order, also those of
streams nobody wants.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping

MAX_HEADER_BLOCK_BYTES = 64 * 1024
"""Largest header block accepted after decompression: ours hold three short pairs, so more is an attack."""

_U32 = struct.Struct(">I")

# The dictionary of section 2.6.10.1: length-prefixed words, then running text. Its Adler-32 is on the wire in
# front of the first block (0xe3c6a7c2), so a typing error here would not go unnoticed.
_DICTIONARY_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges "
    "age allow authorization cache-control connection content-base content-encoding content-language "
    "content-length content-location content-md5 content-range content-type date etag expect expires from "
    "host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location "
    "max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version "
    "HTTP/1.1 url public set-cookie keep-alive origin"
)
_DICTIONARY_TEXT = (
    "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045052"
    "03 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _length_prefixed(text: bytes) -> bytes:
    return _U32.pack(len(text)) + text


DICTIONARY = (
    b"".join(_length_prefixed(word.replace("_", " ").encode()) for word in _DICTIONARY_WORDS.split())
    + _DICTIONARY_TEXT.encode()
)


class HeaderError(Exception):
    """A header block that cannot be read; the compression context is lost with it, and so is the
    connection."""


class HeaderCompressor:
    def __init__(self) -> None:
        # A 2 KiB window holds the dictionary and a few blocks; zlib's default would take 256 KiB a
        # connection.
        self._zlib = zlib.compressobj(wbits=11, memLevel=4, zdict=DICTIONARY)

    def compress(self, headers: Mapping[str, str]) -> bytes:
        """Names are sent in lower case; several values of one name are joined by a NUL byte."""
        block = b"".join(self._pairs(headers.items()))
        return self._zlib.compress(_U32.pack(len(headers)) + block) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    @staticmethod
    def _pairs(items: Iterable[tuple[str, str]]) -> Iterable[bytes]:
        for name, value in items:
            yield _length_prefixed(name.lower().encode())
            yield _length_prefixed(value.encode())


class HeaderDecompressor:
    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def decompress(self, data: bytes) -> dict[str, str]:
        """The pairs of one block, names in lower case. Raises `HeaderError`."""
        try:
            block = self._zlib.decompress(data, MAX_HEADER_BLOCK_BYTES)
        except zlib.error as err:
            raise HeaderError(f"header block does not decompress: {err}") from err
        if self._zlib.unconsumed_tail:
            raise HeaderError(f"header block exceeds {MAX_HEADER_BLOCK_BYTES} bytes")
        try:
            return _parse_pairs(block)
        except (struct.error, UnicodeDecodeError, IndexError) as err:
            raise HeaderError(f"malformed header block of {len(block)} bytes: {err}") from err


def _parse_pairs(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    (count,) = _U32.unpack_from(block)
    offset = _U32.size
    for _ in range(count):
        name, offset = _string_at(block, offset)
        value, offset = _string_at(block, offset)
        headers[name.decode().lower()] = value.decode()
    return headers


def _string_at(block: bytes, offset: int) -> tuple[bytes, int]:
    (length,) = _U32.unpack_from(block, offset)
    start = offset + _U32.size
    end = start + length
    if end > len(block):
        raise IndexError(f"string of {length} bytes at {offset} runs past the end")
    return block[start:end], end
