"""Calling plugins from an event loop: ours in process, on a thread, any other by executing it.

Our plugins block for a few milliseconds; they enter network namespaces only on threads of their own.
Executed plugins have a time limit, after which they and what they started are killed.

A thread cannot be cancelled. `on_thread` therefore waits for it even when its caller is cancelled: else the
DEL that follows would run beside the ADD it is to undo.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from podling.cni.plugins import execute, skel
from podling.cni.plugins.find import find_plugin, own_plugin
from podling.cni.types import PLUGIN_FAILED, PLUGIN_TIMEOUT, Args, CNIError, Result

P = ParamSpec("P")
R = TypeVar("R")


async def to_the_end(work: Awaitable[R]) -> R:
    """Wait until `work` has ended, however often we are cancelled; cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled:
        task.exception()  # looked at, so that nobody complains; the caller is gone
        raise cancelled
    return task.result()


async def on_thread(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await to_the_end(asyncio.to_thread(fn, *args, **kwargs))


async def invoke(kind: str, args: Args, *, timeout_s: float) -> Result | None:
    """The result of an ADD, None of other commands; `CNIError` for every way it can fail."""
    executable = find_plugin(kind, args.path)
    plugin = own_plugin(executable)
    if plugin is not None:
        return await on_thread(skel.run, plugin, args)
    return await _execute(kind, executable, args, timeout_s)


async def _execute(kind: str, executable: str, args: Args, timeout_s: float) -> Result | None:
    try:
        process = await asyncio.create_subprocess_exec(
            executable,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=execute.environment(args),
            start_new_session=True,  # a group to kill, with the IPAM plugin it may be waiting for
        )
    except OSError as err:
        raise CNIError(
            PLUGIN_FAILED, f'plugin type="{kind}": cannot execute {executable}: {err.strerror}'
        ) from err
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(execute.stdin_of(args))
    except TimeoutError as err:
        raise CNIError(
            PLUGIN_TIMEOUT,
            f'plugin type="{kind}" name="{args.name}" {args.command}: no answer in {timeout_s:g} s',
        ) from err
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode is not None
    return execute.read_answer(kind, args, status=process.returncode, stdout=stdout, stderr=stderr)
