"""`podling rm`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podling.cli.byhand import find, for_each

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def command(force: bool, names: tuple[str, ...]) -> int:
    """Remove containers that were run by hand, with all they have written."""

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand.errors import HandError
        from podling.runtime.byhand.remove import remove

        seen = find(name)
        if seen.settings is None:
            raise HandError(f"{seen.name} belongs to a pod: delete the pod")
        if seen.settings.pod_info is not None:
            raise HandError(
                f"container {seen.id} is the infra container of pod {seen.settings.pod_info.name} "
                "and cannot be removed without removing the pod"
            )
        await remove(hand, seen.id, force=force)
        return name

    return for_each(names, one)
