"""nftables: run a ruleset text as one atomic transaction (`man 8 nft`, `man 3 libnftables`).

The library is used where it is installed (a millisecond a transaction), else the `nft` program. Rulesets
apply to the network namespace of the calling thread. Nothing here knows what a rule means; callers compute
a text and hand it over.
"""

from __future__ import annotations

import _thread
import ctypes
import os

from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "libnftables.so.1"
NFT_CTX_DEFAULT = 0
NFT_CTX_OUTPUT_HANDLE = 1 << 3

# libnftables keeps its symbol tables in globals: one transaction at a time in this process.
_lock = _thread.allocate_lock()
_library: list[ctypes.CDLL | None] = []  # empty until first looked for


class NFTError(Exception):
    """nftables refused or is missing; the text has nft's own words, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message + (f"; {remedy}" if remedy else ""))
        self.message = message
        self.remedy = remedy


class NFTNotFound(NFTError):
    """A table, chain or rule that the text names does not exist."""


@record
class NFTRule:
    """A rule as listed: enough to find one's own again and delete it."""

    handle: int
    text: str
    comment: str


def run(text: str) -> str:
    """Apply `text`, all of it or nothing, and return what it printed, with handles."""
    library = _load()
    output, errors = _run_library(library, text) if library else _run_program(text)
    if errors is not None:
        raise _error(errors)
    return output


def list_table(family: str, table: str) -> str:
    """The table as text, with handles; empty when it does not exist."""
    try:
        return run(f"list table {family} {table}\n")
    except NFTNotFound:
        return ""


def parse_rules(listing: str) -> list[NFTRule]:
    """The rules in a listing with handles."""
    found = []
    for line in listing.splitlines():
        text, mark, handle = line.strip().rpartition(" # handle ")
        if mark and not text.endswith("{"):  # tables and chains have handles too
            head, quoted, comment = text.rpartition(' comment "')
            found.append(
                NFTRule(
                    handle=int(handle),
                    text=head if quoted else text,
                    comment=comment.removesuffix('"') if quoted else "",
                )
            )
    return found


def _load() -> ctypes.CDLL | None:
    if not _library:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError:
            _library.append(None)
        else:
            library.nft_ctx_new.restype = ctypes.c_void_p
            library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
            library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
            _library.append(library)
    return _library[0]


def _run_library(library: Any, text: str) -> tuple[str, str | None]:
    with _lock:
        # A context's socket belongs to the namespace it was opened in, hence one for each run.
        raw = library.nft_ctx_new(ctypes.c_uint32(NFT_CTX_DEFAULT))
        if not raw:
            return "", "cannot open a netlink socket for nftables"
        context = ctypes.c_void_p(raw)
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_output_set_flags(context, ctypes.c_uint(NFT_CTX_OUTPUT_HANDLE))
            status = library.nft_run_cmd_from_buffer(context, text.encode())
            output = (library.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
            errors = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace")
        finally:
            library.nft_ctx_free(context)
    return output, (errors or "nft failed without a word") if status else None


def _run_program(text: str) -> tuple[str, str | None]:
    import subprocess

    try:
        done = subprocess.run(
            ["nft", "-a", "-f", "-"], input=text, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as err:
        raise NFTError(
            f"nftables is needed, but neither {LIBRARY} nor the nft program is installed",
            "install the package nftables",
        ) from err
    return done.stdout, (
        done.stderr or f"nft ended with status {done.returncode}"
    ) if done.returncode else None


def _error(words: str) -> NFTError:
    # libnftables reports only texts. After the first line come the command and a row of carets.
    first = words.strip().splitlines()[0]
    if "No such file or directory" in words:
        return NFTNotFound(f"nftables: {first}")
    if not os.path.exists("/proc/sys/net/netfilter") or "Protocol not supported" in words:
        return NFTError(f"nftables: {first}", "this kernel has no nf_tables (CONFIG_NF_TABLES)")
    return NFTError(f"nftables: {first}")
