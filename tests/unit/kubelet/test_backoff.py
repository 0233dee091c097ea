"""Back-off: immediate first, 10 s doubling to 5 min, forgotten after 10 quiet minutes."""

from __future__ import annotations

from podling.kubelet.backoff import Backoff

KEY = ("uid", "main")


def test_delays_double_up_to_five_minutes() -> None:
    backoff = Backoff()
    now, delays = 1000.0, []
    for _ in range(8):
        ready_at = backoff.ready_at(KEY, now)
        delays.append(ready_at - now)
        backoff.advance(KEY, now, ready_at)
        now = ready_at + 1  # the next run lasts a second
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_ten_minutes_of_quiet_reset_it() -> None:
    backoff = Backoff()
    backoff.advance(KEY, 0, 0)
    backoff.advance(KEY, 1, 1)
    assert backoff.ready_at(KEY, 600) == 620
    assert backoff.ready_at(KEY, 602) == 602
    backoff.advance(KEY, 602, 602)
    assert backoff.delay_s(KEY) == 10


def test_a_forgotten_pod_starts_anew() -> None:
    backoff = Backoff()
    backoff.advance(KEY, 0, 0)
    backoff.advance(("other", "main"), 0, 0)
    backoff.forget_pod("uid")
    assert backoff.ready_at(KEY, 1) == 1
    assert backoff.ready_at(("other", "main"), 1) == 11
