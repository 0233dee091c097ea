"""`podling stop`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podling.cli.byhand import find, for_each

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand


@click.command("stop")
@click.option("-t", "--time", "seconds", type=float, default=None, help="Seconds before it is killed.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def command(seconds: float | None, names: tuple[str, ...]) -> int:
    """Stop containers: the stop signal, and SIGKILL when the time is over.

    A container of a pod is started again by its node's agent.
    """

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand.settings import STOP_TIMEOUT_S
        from podling.runtime.byhand.stop import stop

        seen = find(name)
        usual = seen.settings.stop_timeout_s if seen.settings else STOP_TIMEOUT_S
        await stop(hand, seen, timeout_s=usual if seconds is None else seconds)
        return name

    return for_each(names, one)
