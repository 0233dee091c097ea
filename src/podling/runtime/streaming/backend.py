"""What the streaming server asks of the runtime: a process to talk to, or a socket into a sandbox.

`runtime` implements this and `streaming/server.py` puts it on the wire; neither knows the other from inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol


class StreamProcess(Protocol):
    """A running exec, or an attachment to a container's first process."""

    stdout: asyncio.StreamReader | None
    """With a TTY everything arrives here and `stderr` is None."""
    stderr: asyncio.StreamReader | None

    async def write_stdin(self, data: bytes) -> None:
        """Feed standard input; returns when the pipe has taken it. After the process ended: dropped."""

    async def close_stdin(self) -> None:
        """Half-close: the process reads end of file, its output goes on. Twice is fine."""

    def resize(self, *, width: int, height: int) -> None:
        """Set the terminal's size in characters; without a TTY nothing happens."""

    async def wait(self) -> int:
        """The exit code (128 + N when killed by signal N)."""

    async def detach(self) -> None:
        """The client is gone: end an exec's process, leave an attached container running. Twice is fine."""


class StreamBackend(Protocol):
    async def open_exec(
        self, container_id: str, cmd: Sequence[str], *, tty: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> StreamProcess:
        """Start `cmd` in the running container.

        Raises `CRIError` NOT_FOUND, FAILED_PRECONDITION (not running) or UNKNOWN (cannot be started).
        """

    async def open_attach(
        self, container_id: str, *, tty: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> StreamProcess:
        """Join the streams of the container's first process."""

    async def open_port(
        self, sandbox_id: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to `localhost:port` inside the sandbox's network namespace."""
