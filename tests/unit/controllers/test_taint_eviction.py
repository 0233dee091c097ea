from __future__ import annotations

from datetime import UTC, datetime

import pytest

from podling.api.core_v1 import Taint, Toleration
from podling.controllers.taint_eviction import evict_in_s

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
UNREACHABLE = Taint(key="unreachable", effect="NoExecute", time_added="2026-01-01T00:00:00Z")
OTHER = Taint(key="other", effect="NoExecute", time_added="2026-01-01T00:00:30Z")


def tolerates(key: str, seconds: int | None = None) -> Toleration:
    return Toleration(key=key, operator="Exists", effect="NoExecute", toleration_seconds=seconds)


@pytest.mark.parametrize(
    ("taints", "tolerations", "expected"),
    [
        ([], [], None),
        ([UNREACHABLE], [], 0),
        ([UNREACHABLE], [tolerates("unreachable")], None),
        ([UNREACHABLE], [tolerates("unreachable", 300)], 240),
        ([UNREACHABLE], [tolerates("unreachable", 30)], -30),
        ([UNREACHABLE], [tolerates("unreachable", -5)], -60),
        ([UNREACHABLE], [tolerates("unreachable", 300), tolerates("unreachable", 100)], 40),
        ([UNREACHABLE], [tolerates("unreachable", 300), tolerates("unreachable")], 240),
        ([UNREACHABLE, OTHER], [tolerates("unreachable", 300)], 0),
        ([UNREACHABLE, OTHER], [tolerates("unreachable", 300), tolerates("other", 100)], 70),
    ],
)
def test_the_moment_to_go(taints: list[Taint], tolerations: list[Toleration], expected: float | None) -> None:
    assert evict_in_s(taints, tolerations, NOW) == expected
