"""Calling one plugin from an event loop: in process when the executable is ours, else by executing it.

Our plugins block for a few milliseconds, so they run on a thread; they enter network namespaces only on
threads of their own. Executed plugins have a time limit, after which they and what they started are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from podling.cni.plugins import execute, skel
from podling.cni.plugins.find import find_plugin, own_plugin
from podling.cni.types import PLUGIN_FAILED, PLUGIN_TIMEOUT, Args, CNIError, Result


async def invoke(kind: str, args: Args, *, timeout_s: float) -> Result | None:
    """The result of an ADD, None of other commands; `CNIError` for every way it can fail."""
    executable = find_plugin(kind, args.path)
    plugin = own_plugin(executable)
    if plugin is not None:
        return await asyncio.to_thread(skel.run, plugin, args)
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
