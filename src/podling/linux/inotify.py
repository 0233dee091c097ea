"""inotify for one directory, on an event loop (`man 7 inotify`).

It says that something changed, not what: the caller looks again, which is right also when events were lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from types import TracebackType

IN_MODIFY = 0x2  # <sys/inotify.h>
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CLOSE_WRITE = 0x8

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """A watch on one directory, until `close`."""

    def __init__(self, folder: str | os.PathLike[str], mask: int) -> None:
        """Raises OSError: FileNotFoundError, or ENOSPC when the user's watches are used up."""
        self._fd = _call(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), folder)
        try:
            _call(_libc.inotify_add_watch(self._fd, os.fsencode(folder), ctypes.c_uint32(mask)), folder)
        except OSError:
            os.close(self._fd)
            raise

    async def changed(self) -> None:
        """Return once something has changed since the last call (or since the start)."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._fd, wake)
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)
        os.read(self._fd, 65536)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _call(result: int, folder: str | os.PathLike[str]) -> int:
    if result < 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err), os.fspath(folder))
    return result
