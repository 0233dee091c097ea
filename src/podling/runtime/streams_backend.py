"""What the streaming server needs of the runtime: a new process, the first process, a port of a pod."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from podling.linux import netns
from podling.runtime import names
from podling.runtime.attach import Attachment, connect
from podling.runtime.console import ConsoleSocket
from podling.runtime.core import Container, Core
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.exec_process import Exec, failure, start_exec
from podling.runtime.exec_stream import ExecStream, Pipes

CONSOLE_TIMEOUT_S = 10.0


class RuntimeStreams:
    """Implements `podling.runtime.streaming.backend.StreamBackend`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def open_exec(
        self,
        container_id: str,
        cmd: Sequence[str],
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        change: Mapping[str, Any] | None = None,
    ) -> ExecStream:
        """`change` replaces members of the OCI process: user, env, cwd, capabilities."""
        container = self._core.container(container_id)
        if tty:
            return await self._open_terminal(container, cmd, change)
        pipes = Pipes(stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            running = await start_exec(self._core, container, cmd, files=pipes.theirs, change=change)
        except BaseException:
            pipes.close_ours()
            raise
        finally:
            pipes.close_theirs()
        return ExecStream(running, pipes=pipes)

    async def _open_terminal(
        self, container: Container, cmd: Sequence[str], change: Mapping[str, Any] | None
    ) -> ExecStream:
        console = ConsoleSocket(self._core.paths.run, f"tty-{names.new_id()[:12]}")
        try:
            running = await start_exec(
                self._core, container, cmd, files={}, console_socket=console.path, change=change
            )
            try:
                return ExecStream(running, terminal=await self._terminal(running, console))
            except BaseException:
                await asyncio.shield(running.end())
                running.crun.reap()
                running.close()
                raise
        finally:
            console.close()

    async def _terminal(self, running: Exec, console: ConsoleSocket) -> int:
        """The terminal, or the reason why crun ended without one."""
        received = asyncio.ensure_future(console.receive())
        ended = asyncio.ensure_future(running.crun.ended())
        try:
            await asyncio.wait(
                {received, ended}, timeout=CONSOLE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if received.done():
                return received.result()
        finally:
            received.cancel()
            ended.cancel()
        raise CRIError(Code.UNKNOWN, f"failed to exec in container: {failure(running) or 'no terminal'}")

    async def open_attach(
        self, container_id: str, *, tty: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> Attachment:
        container = self._core.container(container_id)
        if not container.running:
            raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is not running")
        bundle = self._core.paths.bundle(container.id)
        return Attachment(
            container, bundle, await connect(bundle), stdin=stdin, stdout=stdout, stderr=stderr and not tty
        )

    async def open_port(
        self, sandbox_id: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sandbox = self._core.sandbox(sandbox_id)
        if not sandbox.ready:
            raise CRIError(Code.FAILED_PRECONDITION, f"sandbox {sandbox.id!r} is not ready")
        error: OSError | None = None
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            connection = _socket_in(sandbox.record.netns, family)
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
                return await asyncio.open_connection(sock=connection)
            except OSError as err:
                connection.close()
                error = error or err
            except BaseException:
                connection.close()
                raise
        raise CRIError(
            Code.UNKNOWN,
            f"failed to connect to localhost:{port} inside namespace {sandbox.id!r}: "
            f"{os.strerror(error.errno or 0) if error else ''}",
        ) from error


def _socket_in(path: str, family: socket.AddressFamily) -> socket.socket:
    """A socket belongs to the namespace it was made in, for life: only its making needs to be inside."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    return netns.run_in_netns(path, make) if path else make()
