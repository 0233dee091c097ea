"""`podling kill`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podling.cli.byhand import find, for_each

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand


@click.command("kill")
@click.option("-s", "--signal", "name", default="SIGKILL", show_default=True, help="By name or number.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def command(name: str, names: tuple[str, ...]) -> int:
    """Send a signal to the first process of containers."""
    from podling.runtime.container_create import InvalidSignalError, signal_number

    try:
        number = signal_number(name)
    except InvalidSignalError:
        raise click.ClickException(f"Invalid signal: {name}") from None

    async def one(hand: Hand, wanted: str) -> str:
        from podling.runtime.byhand.stop import kill

        await kill(hand, find(wanted), number)
        return wanted

    return for_each(names, one)
