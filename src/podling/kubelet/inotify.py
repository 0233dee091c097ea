"""Wait for a file to grow or be replaced, without polling (`man 7 inotify`)."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType

IN_MODIFY = 0x00000002
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_NONBLOCK = 0x00000800
IN_CLOEXEC = 0x00080000

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Says when something in one directory was written or created. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self.changed = asyncio.Event()
        """Set on every change; the user clears it before looking."""

    def __enter__(self) -> DirectoryWatch:
        self._fd = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self._fd < 0:
            self._raise("inotify_init1")
        path = os.fsencode(self._directory)
        if _libc.inotify_add_watch(self._fd, path, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0:
            os.close(self._fd)
            self._raise("inotify_add_watch")
        asyncio.get_running_loop().add_reader(self._fd, self._drain)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 4096):
                self.changed.set()
        except BlockingIOError:
            return

    def _raise(self, call: str) -> None:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", str(self._directory))
