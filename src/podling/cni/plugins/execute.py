"""Executing plugins that are not ours, and delegating to any (CNI spec, section 2 and section 4).

What a plugin is told and how its answer is read is here, free of input and output; the library runs plugins
from its event loop, a plugin that delegates runs them with `call`.
"""

from __future__ import annotations

import os

from podling.cni import jsontext
from podling.cni.plugins import skel
from podling.cni.plugins.find import find_plugin, own_plugin
from podling.cni.types import (
    DECODING_FAILURE,
    INTERNAL,
    PLUGIN_FAILED,
    PLUGIN_TIMEOUT,
    Args,
    CNIError,
    Result,
)
from podling.linux.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIMEOUT_S = (
    120.0  # a delegated plugin may wait for a DHCP server; the caller above us has its own, shorter limit
)
STDERR_KEPT = 2000  # characters


def environment(args: Args) -> dict[str, str]:
    """The environment of a plugin: ours, and the parameters of the call."""
    return {
        **os.environ,
        "CNI_COMMAND": args.command,
        "CNI_CONTAINERID": args.container_id,
        "CNI_NETNS": args.netns,
        "CNI_IFNAME": args.ifname,
        "CNI_ARGS": args.args,
        "CNI_PATH": ":".join(args.path),
    }


def stdin_of(args: Args) -> bytes:
    return jsontext.dumps(dict(args.conf)).encode()


def read_answer(kind: str, args: Args, *, status: int, stdout: bytes, stderr: bytes) -> Result | None:
    """The result of an ADD (None of other commands), or the plugin's error as `CNIError`."""
    what = f'plugin type="{kind}" name="{args.name}" {args.command}'
    noise = stderr.decode(errors="replace").strip()[-STDERR_KEPT:]
    reply: Any = None
    if stdout.strip():
        try:
            reply = jsontext.loads(stdout)
        except ValueError as err:
            shown = stdout.decode(errors="replace").strip()[:200]
            raise CNIError(
                DECODING_FAILURE, f"{what}: answered no JSON ({err}): {shown!r}", noise and f"stderr: {noise}"
            ) from err
    if status == 0:
        if args.command != "ADD":
            return None
        if reply is None:
            raise CNIError(
                PLUGIN_FAILED, f"{what}: ended well but printed no result", noise and f"stderr: {noise}"
            )
        return Result.from_json(reply, args.version)
    if isinstance(reply, dict) and "code" in reply:
        code = reply["code"] if isinstance(reply["code"], int) else INTERNAL
        raise CNIError(code, f"{what} failed: {reply.get('msg', '')}", str(reply.get("details", "")))
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    raise CNIError(PLUGIN_FAILED, f"{what}: {how} and printed no error", noise and f"stderr: {noise}")


def call(kind: str, args: Args) -> Result | None:
    """Call a plugin by type: in process when it is ours, else by executing it. Blocks; raises `CNIError`."""
    executable = find_plugin(kind, args.path)
    plugin = own_plugin(executable)
    return skel.run(plugin, args) if plugin else _execute(kind, executable, args)


def _execute(kind: str, executable: str, args: Args) -> Result | None:
    import subprocess

    try:
        done = subprocess.run(
            [executable],
            input=stdin_of(args),
            env=environment(args),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise CNIError(
            PLUGIN_TIMEOUT, f'plugin type="{kind}" {args.command}: no answer in {TIMEOUT_S:g} s'
        ) from err
    except OSError as err:
        raise CNIError(
            PLUGIN_FAILED, f'plugin type="{kind}": cannot execute {executable}: {err.strerror}'
        ) from err
    return read_answer(kind, args, status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def delegate_add(kind: str, args: Args) -> Result:
    """ADD by the plugin `kind`; when it fails it is told to DEL, as the spec asks of whoever delegates."""
    try:
        result = call(kind, replace(args, command="ADD"))
    except CNIError:
        _undo(kind, args)
        raise
    assert result is not None  # read_answer and Plugin.add see to it
    return result


def _undo(kind: str, args: Args) -> None:
    try:
        call(kind, replace(args, command="DEL"))
    except CNIError:
        return  # the error of ADD is the one to report


def delegate(kind: str, args: Args, command: str) -> None:
    """DEL, CHECK or STATUS by the plugin `kind`."""
    call(kind, replace(args, command=command))
