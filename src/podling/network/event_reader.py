"""Reading what the kernel announces on a netlink socket, on an event loop."""

from __future__ import annotations

import asyncio
import errno
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

from podling.linux.netlink.socket import NetlinkSocket

S = TypeVar("S", bound=NetlinkSocket)


class EventReader(ABC, Generic[S]):
    """A context manager: subscribed and reading while it is entered."""

    _socket: S

    @abstractmethod
    def _open(self) -> S:
        """The socket, subscribed to what is wanted."""

    @abstractmethod
    def _take_next(self) -> None:
        """Receive one datagram and act on it; BlockingIOError when there is none."""

    @abstractmethod
    def _lost(self) -> None:
        """We fell behind, and the kernel dropped events: anything may have happened."""

    def __enter__(self) -> Self:
        self._socket = self._open()
        self._socket.set_blocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                self._take_next()
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self._lost()
