"""Back-off between restarts and pulls: 10 s doubling to 5 min, forgotten after 10 quiet minutes.

As upstream's `flowcontrol.Backoff`: the first failure costs nothing, because the delay counts from the
event (a container's end) and the entry is only made when we act on it. Times are seconds since the
epoch, given by the caller: containers' ends are stamped by the runtime in that clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Entry:
    delay_s: float
    updated_at: float


class Backoff:
    """Delays by key. Keys are tuples whose first element is the pod UID, so that a pod can be forgotten."""

    def __init__(self, *, initial_s: float = 10.0, max_s: float = 300.0) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._entries: dict[tuple[str, ...], _Entry] = {}

    def ready_at(self, key: tuple[str, ...], event_at: float) -> float:
        """When the next try may be made after a failure at `event_at`; `event_at` itself means at once."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, event_at):
            return event_at
        return event_at + entry.delay_s

    def delay_s(self, key: tuple[str, ...]) -> float:
        entry = self._entries.get(key)
        return entry.delay_s if entry else 0.0

    def advance(self, key: tuple[str, ...], event_at: float, now: float) -> None:
        """Note that a try is being made now; the next failure waits twice as long as this one did."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, event_at):
            self._entries[key] = _Entry(self._initial_s, now)
            return
        entry.delay_s = min(entry.delay_s * 2, self._max_s)
        entry.updated_at = now

    def reset(self, key: tuple[str, ...]) -> None:
        self._entries.pop(key, None)

    def forget_pod(self, uid: str) -> None:
        for key in [key for key in self._entries if key[0] == uid]:
            del self._entries[key]

    def _expired(self, entry: _Entry, event_at: float) -> bool:
        return event_at - entry.updated_at > 2 * self._max_s
