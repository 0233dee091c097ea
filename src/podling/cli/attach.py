"""`podling attach`"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from podling.cli.byhand import core_with, opened, running

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand
    from podling.runtime.view import Seen


@click.command("attach")
@click.option("--no-stdin", is_flag=True, help="Do not pass our standard input on.")
@click.argument("name", metavar="ID|NAME")
def command(no_stdin: bool, name: str) -> int:
    """Join the streams of a running container's first process. ^P ^Q leaves a terminal again."""
    seen = running(name)
    with opened() as hand:
        return asyncio.run(_attach(hand, seen, stdin=not no_stdin))


async def _attach(hand: Hand, seen: Seen, *, stdin: bool) -> int:
    from podling.cli.streams import Detached, pump, raw_terminal
    from podling.runtime.byhand.hand import client_lock
    from podling.runtime.streams_backend import RuntimeStreams

    core = core_with(hand, seen)
    assert seen.container is not None  # core_with refuses pause
    config = seen.container.config
    stdin = stdin and config.stdin
    stream = await RuntimeStreams(core).open_attach(
        seen.id, tty=config.tty, stdin=stdin, stdout=True, stderr=True
    )
    wants_code = seen.settings is not None  # a pod's container: its exit code is the agent's to read
    async with hand.lock(client_lock(seen.id), shared=True) if wants_code else nullcontext():
        with raw_terminal(config.tty and stdin):
            try:
                await pump(stream, stdin=stdin, terminal=config.tty)
            except Detached:
                return 0
        return (await hand.exit_code(seen.id) or 0) if wants_code else 0
