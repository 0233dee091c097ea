"""`podling start`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podling.cli.byhand import for_each

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand


@click.command("start")
@click.option("--all", "every", is_flag=True, help="All of them, and pods, as after a reboot.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="With --all: only these.")
@click.argument("names", nargs=-1, metavar="ID|NAME...")
def command(every: bool, filters: tuple[str, ...], names: tuple[str, ...]) -> int:
    """Start containers again that have ended.

    Nothing starts by itself after a reboot: let the machine's init run `podling start --all --filter
    restart-policy=always`.
    """
    if bool(names) == every or (filters and not every):
        raise click.UsageError("give containers, or --all with or without --filter")

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand import pod
        from podling.runtime.byhand.start import start_again

        seen = hand.find(name)
        if seen.settings and seen.settings.pod and seen.id != seen.settings.pod:
            await pod.running(hand, seen.settings.pod)  # what it joins
        await start_again(hand, seen.id)
        return name

    return for_each(_all(filters) if every else names, one)


def _all(filters: tuple[str, ...]) -> list[str]:
    """Oldest first, so that who is joined comes before who joins. Those that run stay as they are."""
    from podling.cli.byhand import opened
    from podling.cli.filters import container_filter

    with opened() as hand:
        seen = hand.view.all()
    wanted = container_filter(filters, seen)
    return [
        one.id
        for one in reversed(seen)
        if one.state != "running" and not (one.settings and one.settings.init) and wanted(one)
    ]
