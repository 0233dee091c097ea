"""What the commands of containers run by hand share: opening the runtime, reading options, ending well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand
    from podling.runtime.core import Core
    from podling.runtime.view import Seen


class Refused(click.ClickException):
    """A refusal with an exit code of its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class DockerCommand(click.Command):
    """Wrong usage of it ends with 125, which nobody can take for the container's own code."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as err:
            err.exit_code = 125  # type: ignore[misc]  # click reads it from the instance
            raise


@contextmanager
def opened() -> Iterator[Hand]:
    from podling.runtime.byhand.hand import Hand

    hand = Hand()
    try:
        yield hand
    finally:
        hand.close()


def for_each(names: Sequence[str], do: Callable[[Hand, str], Awaitable[str]]) -> int:
    """Do it to each, print what it returns; go on after a refusal, as docker does. 1 when one was refused."""
    from podling.runtime.byhand.errors import HandError

    async def all_of_them(hand: Hand) -> int:
        failed = 0
        for name in names:
            try:
                click.echo(await do(hand, name))
            except HandError as err:
                click.echo(f"Error: {err}", err=True)
                failed = 1
        return failed

    with opened() as hand:
        return asyncio.run(all_of_them(hand))


def find(wanted: str) -> Seen:
    """A container by hand or one of the node's pods."""
    from podling.cli.containers import find_one, open_view

    return find_one(open_view(None, None), wanted)


def running(wanted: str) -> Seen:
    seen = find(wanted)
    if seen.state != "running":
        raise click.ClickException(f"container {seen.id} is not running")
    return seen


def core_with(hand: Hand, seen: Seen) -> Core:
    """A core that knows this one container: for exec and attach, which change no record."""
    from podling.linux.pidfd import Process
    from podling.runtime.config import RuntimeConfig
    from podling.runtime.core import Container, Core

    if seen.container is None or not seen.container.image_id:
        raise click.ClickException(f"{seen.name} is a pause container: there is nothing in it to run")
    core = hand.core if seen.settings is not None else Core(RuntimeConfig())
    container = Container(seen.container)
    container.process = Process.open(seen.pid)
    core.containers[seen.id] = container
    return core
