"""Which pods of a set count, which go first, and the status that follows: pure functions over pods.

Source: pkg/controller/controller_utils.go (ActivePodsWithRanks), pkg/controller/replicaset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from podling.api.core_v1 import Pod
from podling.api.pods import get_condition, is_ready, phase
from podling.api.times import parse_time

_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def available_in_s(pod: Pod, min_ready_s: int, now: datetime) -> float | None:
    """Seconds until a pod counts as available: zero when it does, None while it is not ready."""
    condition = get_condition(pod.status, "Ready")
    if condition is None or condition.status != "True":
        return None
    if not min_ready_s or not condition.last_transition_time:
        return 0.0
    age_s = (now - parse_time(condition.last_transition_time)).total_seconds()
    return max(0.0, min_ready_s - age_s)


def choose_to_delete(pods: Sequence[Pod], count: int) -> list[Pod]:
    """The `count` pods whose loss hurts least.

    In this order: not assigned, not running, not ready, cheapest by annotation, on the node with the most
    of them, ready for the shortest time, restarted most often, youngest.
    """
    crowd = Counter(pod.spec.node_name if pod.spec else None for pod in pods)

    def rank(pod: Pod) -> tuple[object, ...]:
        assigned = bool(pod.spec and pod.spec.node_name)
        ready = is_ready(pod)
        return (
            assigned,
            _PHASE_ORDER.get(phase(pod), 1),
            ready,
            _deletion_cost(pod),
            -crowd[pod.spec.node_name if pod.spec else None],
            -_ready_since(pod) if ready else 0.0,
            -_restarts(pod),
            -_time(pod.metadata.creation_timestamp),
            pod.metadata.name or "",
        )

    return sorted(pods, key=rank)[: max(0, count)]


def _deletion_cost(pod: Pod) -> int:
    try:
        return int(pod.metadata.annotations.get(_DELETION_COST, "0"))
    except ValueError:
        return 0


def _ready_since(pod: Pod) -> float:
    condition = get_condition(pod.status, "Ready")
    return _time(condition.last_transition_time if condition else None)


def _restarts(pod: Pod) -> int:
    statuses = pod.status.container_statuses if pod.status else []
    return max((status.restart_count for status in statuses), default=0)


def _time(text: str | None) -> float:
    return (parse_time(text) - _EPOCH).total_seconds() if text else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCounts:
    replicas: int
    fully_labeled: int
    ready: int
    available: int
    next_available_s: float | None
    """Seconds until the next ready pod becomes available; None when none will."""


def count_replicas(
    pods: Iterable[Pod], template_labels: Mapping[str, str], min_ready_s: int, now: datetime
) -> ReplicaCounts:
    """Count active pods as a set's status does."""
    replicas = fully_labeled = ready = available = 0
    soonest: float | None = None
    for pod in pods:
        replicas += 1
        fully_labeled += all(pod.metadata.labels.get(k) == v for k, v in template_labels.items())
        left_s = available_in_s(pod, min_ready_s, now)
        if left_s is None:
            continue
        ready += 1
        if left_s <= 0:
            available += 1
        else:
            soonest = left_s if soonest is None else min(soonest, left_s)
    return ReplicaCounts(
        replicas=replicas,
        fully_labeled=fully_labeled,
        ready=ready,
        available=available,
        next_available_s=soonest,
    )


def slow_start(total: int, first: int = 1) -> list[int]:
    """Sizes of batches that double: the first failure is told before hundreds of others are tried."""
    sizes: list[int] = []
    while total > 0:
        size = min(total, first << len(sizes))
        sizes.append(size)
        total -= size
    return sizes
