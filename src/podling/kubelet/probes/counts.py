"""How often each probe has said what: what /metrics/probes shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from podling.api import core_v1
from podling.kubelet import names


class ProbeKey(NamedTuple):
    namespace: str
    pod: str
    uid: str
    container: str
    type: str
    """Liveness, Readiness or Startup."""
    result: str
    """successful or failed."""


class ProbeCounts:
    """One for all pods of the node."""

    def __init__(self) -> None:
        self._counts: Counter[ProbeKey] = Counter()

    def add(self, pod: core_v1.Pod, container: str, kind: str, *, success: bool) -> None:
        result = "successful" if success else "failed"
        name, uid = pod.metadata.name or "", names.pod_uid(pod)
        self._counts[ProbeKey(names.pod_namespace(pod), name, uid, container, kind, result)] += 1

    def forget_pod(self, uid: str) -> None:
        for key in [key for key in self._counts if key.uid == uid]:
            del self._counts[key]

    def __iter__(self) -> Iterator[tuple[ProbeKey, int]]:
        return iter(sorted(self._counts.items()))
