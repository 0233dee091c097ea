"""What the kubelet's gate remembers, and which subresource a path is."""

from __future__ import annotations

import pytest

from podling.kubelet.server.auth import CACHE_SIZE, _Kept, subresources


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/pods", ["pods", "proxy"]),
        ("/runningpods/", ["pods", "proxy"]),
        ("/configz", ["configz", "proxy"]),
        ("/healthz", ["healthz", "proxy"]),
        ("/stats/summary", ["stats"]),
        ("/metrics/cadvisor", ["metrics"]),
        ("/checkpoint/a/b/c", ["checkpoint"]),
        ("/exec/a/b/c", ["proxy"]),
        ("/containerLogs/a/b/c", ["proxy"]),
    ],
)
def test_paths_are_subresources_of_the_node(path: str, wanted: list[str]) -> None:
    assert subresources(path) == wanted


def test_answers_are_believed_for_their_time_also_none() -> None:
    now = 0.0
    kept: _Kept[str | None] = _Kept(lambda: now)
    kept.put("a", None, 10)
    kept.put("b", "yes", 20)
    assert kept.get("a") == (None,)
    now = 15.0
    assert kept.get("a") is None
    assert kept.get("b") == ("yes",)
    assert kept.get("c") is None


def test_there_are_never_too_many() -> None:
    kept: _Kept[int] = _Kept(lambda: 0.0)
    for number in range(CACHE_SIZE + 5):
        kept.put(number, number, 1)
    assert kept.get(0) is None
    assert kept.get(CACHE_SIZE + 4) == (CACHE_SIZE + 4,)
