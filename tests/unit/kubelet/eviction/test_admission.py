"""New pods on a node under pressure."""

from __future__ import annotations

from typing import Any

import pytest

from podling.kubelet.eviction.admission import refusal
from unit.kubelet.builders import container, make_pod

MODEST = {"resources": {"requests": {"memory": "1Mi"}}}
TOLERANT = {"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}
CRITICAL = {"priority": 2_000_000_000}


@pytest.mark.parametrize(
    ("conditions", "needs", "spec", "refused"),
    [
        (set(), {}, {}, False),
        ({"MemoryPressure"}, {}, {}, True),
        ({"MemoryPressure"}, MODEST, {}, False),
        ({"MemoryPressure"}, {}, TOLERANT, False),
        ({"MemoryPressure"}, {}, CRITICAL, False),
        ({"DiskPressure"}, MODEST, {}, True),
        ({"DiskPressure"}, MODEST, CRITICAL, False),
        ({"DiskPressure", "MemoryPressure"}, MODEST, TOLERANT, True),
    ],
)
def test_who_is_kept_away(
    conditions: set[str], needs: dict[str, Any], spec: dict[str, Any], refused: bool
) -> None:
    failure = refusal(make_pod(container(**needs), **spec), frozenset(conditions))
    assert (failure is not None) == refused
    if failure is not None:
        told = " ".join(sorted(conditions))
        assert failure.reason == "Evicted"
        assert failure.message == f"Pod was rejected: The node had condition: [{told}]. "
