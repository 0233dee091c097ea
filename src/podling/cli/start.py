"""`podling start`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podling.cli.byhand import for_each

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand


@click.command("start")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def command(names: tuple[str, ...]) -> int:
    """Start containers again that have ended."""

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand.start import start_again

        await start_again(hand, hand.find(name).id)
        return name

    return for_each(names, one)
