"""A running exec with its streams: pipes, or a terminal."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from podling.runtime import console
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.exec_process import Exec, failure
from podling.runtime.fd_streams import FdReader, FdWriter


class Pipes:
    """A pipe for each wanted standard stream; our ends are here, `theirs` go to the process."""

    def __init__(self, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.theirs: dict[int, int] = {}
        self.ours: dict[int, int] = {}
        for number, wanted in enumerate((stdin, stdout, stderr)):
            if wanted:
                reading, writing = os.pipe2(os.O_CLOEXEC)
                pair = (reading, writing) if number == 0 else (writing, reading)
                self.theirs[number], self.ours[number] = pair

    def close_theirs(self) -> None:
        while self.theirs:
            os.close(self.theirs.popitem()[1])

    def close_ours(self) -> None:
        while self.ours:
            os.close(self.ours.popitem()[1])


class ExecStream:
    """Implements `StreamProcess`. It is over when `wait` has returned, or after `detach`."""

    def __init__(self, running: Exec, *, pipes: Pipes | None = None, terminal: int = -1) -> None:
        self._running = running
        self._terminal = terminal
        self._writer: FdWriter | None = None
        self._readers: dict[int, FdReader] = {}
        if pipes is not None:
            self._writer = FdWriter(pipes.ours[0]) if 0 in pipes.ours else None
            self._readers = {
                number: FdReader(pipes.ours[number]) for number in (1, 2) if number in pipes.ours
            }
        else:
            # Read, written and resized through three descriptors: each side closes its own when it is done.
            self._writer = FdWriter(os.dup(terminal))
            self._readers = {1: FdReader(os.dup(terminal))}
        self.stdout: asyncio.StreamReader | None = self._readers[1].stream if 1 in self._readers else None
        self.stderr: asyncio.StreamReader | None = self._readers[2].stream if 2 in self._readers else None
        self._over: asyncio.Task[int] = asyncio.create_task(self._ended(), name=f"exec {running.crun.pid}")
        # Nobody may ask for the code of a detached exec.
        self._over.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _ended(self) -> int:
        await self._running.crun.ended()
        code = self._running.crun.reap()
        said = failure(self._running)
        self._running.close()
        self._close_terminal()
        if self._writer is not None:
            self._writer.close()
        if said:
            raise CRIError(Code.UNKNOWN, f"failed to exec in container: {said}")
        return 255 if code is None else code

    async def write_stdin(self, data: bytes) -> None:
        if self._writer is not None:
            await self._writer.write(data)

    async def close_stdin(self) -> None:
        """A terminal has no half-close: there the client's end of file is a ^D among the data."""
        if self._terminal < 0 and self._writer is not None:
            self._writer.close()

    def resize(self, *, width: int, height: int) -> None:
        if self._terminal >= 0:
            with suppress(OSError):
                console.set_size(self._terminal, width=width, height=height)

    async def wait(self) -> int:
        return await asyncio.shield(self._over)

    async def detach(self) -> None:
        if not self._over.done():
            await self._running.end()
            await asyncio.wait([self._over])
        for reader in self._readers.values():
            reader.close()

    def _close_terminal(self) -> None:
        fd, self._terminal = self._terminal, -1
        if fd >= 0:
            os.close(fd)
