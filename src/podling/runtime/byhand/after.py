"""What conmon runs when its container has ended: `python -m podling.runtime.byhand.after ROOT RUN IMAGES ID`.

This process, one for each container and only from its end on, is what a daemon would do: it takes the
network down, and removes the container (`--rm`) or starts it again (`--restart`) after a wait that doubles
from 100 ms to a minute, as Docker's does. A container that ran for ten seconds starts with 100 ms again.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from podling.linux.inotify import IN_DELETE, IN_MOVED_TO, Inotify
from podling.runtime.byhand.config import config_at
from podling.runtime.byhand.errors import HandError, NoSuchContainerError
from podling.runtime.byhand.hand import Hand
from podling.runtime.byhand.remove import remove_ended
from podling.runtime.byhand.settle import settle
from podling.runtime.byhand.start import start
from podling.runtime.state import ContainerPhase

FIRST_WAIT_S, LAST_WAIT_S = 0.1, 60.0
RESET_AFTER_S = 10.0


async def after(hand: Hand, container_id: str) -> None:
    try:
        async with hand.lock(container_id):
            held = hand.load(container_id)
            if not await settle(hand, held):
                return
            remove = held.settings.auto_remove
        if remove:
            await remove_ended(hand, container_id)
        else:
            await _restart(hand, container_id)
    except NoSuchContainerError:
        return  # removed meanwhile: nothing is left to do


async def _restart(hand: Hand, container_id: str) -> None:
    held = hand.load(container_id)
    record, settings = held.record, held.settings
    if settings.stopped or settings.init or not settings.restart.wanted(record.exit_code, settings.restarts):
        return
    ran_s = (record.finished_at - record.started_at) / 1e9
    waited = 0 if ran_s > RESET_AFTER_S else settings.restarts
    if not await _undisturbed(hand, container_id, min(FIRST_WAIT_S * 2 ** min(waited, 10), LAST_WAIT_S)):
        return
    async with hand.lock(container_id):
        held = hand.load(container_id)
        if held.settings.stopped or held.record.phase is not ContainerPhase.EXITED:
            return
        held.settings.restarts += 1
        with suppress(HandError):  # written down as its end
            await start(hand, held)


async def _undisturbed(hand: Hand, container_id: str, wait_s: float) -> bool:
    """Wait; False at once when somebody stops or removes the container meanwhile."""
    layer = hand.paths.layer(container_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            with Inotify(layer, IN_MOVED_TO | IN_DELETE) as changes:
                while not hand.load(container_id).settings.stopped:
                    await changes.changed()
                return False
    return True


def main() -> None:
    root, run, images, container_id = sys.argv[1:]
    hand = Hand(config_at(Path(root), Path(run), Path(images)))
    asyncio.run(after(hand, container_id))


if __name__ == "__main__":
    main()
