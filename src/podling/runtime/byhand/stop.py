"""Ending containers: ours, whose end we settle, and those of the node's pods, whose end its agent sees."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from podling.linux.pidfd import Process
from podling.runtime.byhand.errors import HandError, NoSuchContainerError
from podling.runtime.byhand.hand import Hand
from podling.runtime.byhand.settle import settle
from podling.runtime.view import Seen, State

KILL_WAIT_S = 10.0
PAUSE_STOP_SIGNAL = signal.SIGTERM


async def stop(hand: Hand, seen: Seen, *, timeout_s: float) -> None:
    """The stop signal, and SIGKILL when the time is over. Fine when it does not run."""
    await _do_not_restart(hand, seen)
    number = seen.container.stop_signal if seen.container else PAUSE_STOP_SIGNAL
    if timeout_s <= 0 or not await _ended_by(seen, number, timeout_s):
        await _ended_by(seen, signal.SIGKILL, KILL_WAIT_S)
    await _settle(hand, seen)


async def kill(hand: Hand, seen: Seen, number: int) -> None:
    """Send a signal. After SIGKILL wait for the end."""
    if seen.state is not State.RUNNING:
        raise HandError(f"Cannot kill container: {seen.name}: container {seen.id} is not running")
    await _do_not_restart(hand, seen)
    if number == signal.SIGKILL:
        await _ended_by(seen, number, KILL_WAIT_S)
        await _settle(hand, seen)
    elif (process := Process.open(seen.pid)) is not None:
        process.send(number)
        process.close()


async def _do_not_restart(hand: Hand, seen: Seen) -> None:
    if seen.settings is None:
        return
    async with hand.lock(seen.id):
        held = hand.load(seen.id)
        held.settings.stopped = True
        hand.save(held)


async def _ended_by(seen: Seen, number: int, timeout_s: float) -> bool:
    process = Process.open(seen.pid) if seen.pid else None
    if process is None:
        return True
    try:
        process.send(number)
        async with asyncio.timeout(timeout_s):
            await process.ended()
    except TimeoutError:
        return False
    finally:
        process.close()
    return True


async def _settle(hand: Hand, seen: Seen) -> None:
    if seen.settings is None:
        return
    with suppress(NoSuchContainerError, TimeoutError):  # --rm
        await hand.exit_code(seen.id, timeout_s=KILL_WAIT_S)
        async with hand.lock(seen.id):
            await settle(hand, hand.load(seen.id))
