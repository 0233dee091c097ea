"""`podling exec`"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from podling.cli.byhand import Refused, core_with, opened, running

if TYPE_CHECKING:
    from podling.runtime.core import Core


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass our standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.argument("name", metavar="ID|NAME")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def command(interactive: bool, tty: bool, name: str, argv: tuple[str, ...]) -> int:
    """Run a command in a running container; its exit code is this command's.

    126 it cannot be executed, 127 it was not found.
    """
    seen = running(name)
    if tty and interactive and not sys.stdin.isatty():
        raise Refused("the input device is not a TTY", 1)
    with opened() as hand:
        core = core_with(hand, seen)
        _check(core, seen.id, argv[0])
        return asyncio.run(_exec(core, seen.id, argv, stdin=interactive, terminal=tty))


def _check(core: Core, container_id: str, word: str) -> None:
    """Told by us, as start_exec's refusal has no exit code."""
    import json

    from podling.runtime.byhand.errors import command_error
    from podling.runtime.container_start import explain_command

    bundle = core.paths.bundle(container_id)
    process = json.loads((bundle / "config.json").read_bytes())["process"]
    problem = explain_command(core.paths.rootfs(container_id), word, process["env"], process["cwd"])
    if problem:
        error = command_error(problem)
        text = f"OCI runtime exec failed: exec failed: unable to start container process: {problem}"
        raise Refused(text, error.exit_code)


async def _exec(core: Core, container_id: str, argv: tuple[str, ...], *, stdin: bool, terminal: bool) -> int:
    from podling.cli.streams import Detached, pump, raw_terminal
    from podling.runtime.streams_backend import RuntimeStreams

    stream = await RuntimeStreams(core).open_exec(
        container_id, argv, tty=terminal, stdin=stdin, stdout=True, stderr=not terminal
    )
    with raw_terminal(terminal and stdin):
        try:
            await pump(stream, stdin=stdin, terminal=terminal)
        except Detached:
            await stream.detach()
            return 0
    return await stream.wait()
