"""Which of the nodes a pod may go to is the best: one pure function per preference, 0 to 100 each.

The weights are upstream's default profile's. What comes out: pods spread over nodes, those of one owner
first of all, and keep off nodes that would rather not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from podling.api.selectors import match_node_selector_term
from podling.api.taints import find_untolerated
from podling.scheduler.state import NodeInfo, PodInfo

MAX_SCORE = 100.0

Score = Callable[[PodInfo, Sequence[NodeInfo]], list[float]]
"""One score per node, in their order; all nodes at once, because some scores are relative."""


def least_allocated(pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[float]:
    """The mean of the shares of CPU and memory that would stay free."""
    scores = []
    for node in nodes:
        cpu, memory = _used_shares(pod, node)
        scores.append(MAX_SCORE * (2 - cpu - memory) / 2)
    return scores


def balanced_allocation(pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[float]:
    """CPU and memory used to the same degree: the standard deviation of the two shares."""
    return [MAX_SCORE * (1 - abs(cpu - memory) / 2) for cpu, memory in (_used_shares(pod, n) for n in nodes)]


def _used_shares(pod: PodInfo, node: NodeInfo) -> tuple[float, float]:
    cpu = node.allocatable.get("cpu", 0)
    memory = node.allocatable.get("memory", 0)
    return (
        min(1.0, (node.scoring_cpu_milli + pod.scoring_cpu_milli) / cpu) if cpu else 1.0,
        min(1.0, (node.scoring_memory_bytes + pod.scoring_memory_bytes) / memory) if memory else 1.0,
    )


def preferred_affinity(pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[float]:
    """The weights of the preferred node affinity terms that match, relative to the best node."""
    if not pod.preferred_affinity:
        return [0.0] * len(nodes)
    sums = [
        sum(
            term.weight
            for term in pod.preferred_affinity
            if term.preference is not None and match_node_selector_term(term.preference, node.node)
        )
        for node in nodes
    ]
    return _normalize(sums)


def untainted(pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[float]:
    """Fewer PreferNoSchedule taints that the pod does not tolerate."""
    counts = [
        sum(
            1
            for taint in node.taints
            if taint.effect == "PreferNoSchedule"
            and find_untolerated([taint], pod.tolerations, ["PreferNoSchedule"])
        )
        for node in nodes
    ]
    return [MAX_SCORE - score for score in _normalize(counts)]


def owner_spread(pod: PodInfo, nodes: Sequence[NodeInfo]) -> list[float]:
    """Fewer pods of the same controller (upstream: the default topology spread constraints)."""
    if not pod.owner_uid:
        return [MAX_SCORE] * len(nodes)
    counts = [sum(1 for other in n.pods.values() if other.owner_uid == pod.owner_uid) for n in nodes]
    return [MAX_SCORE - score for score in _normalize(counts)]


def _normalize(values: Sequence[int]) -> list[float]:
    top = max(values, default=0)
    return [MAX_SCORE * value / top if top else 0.0 for value in values]


SCORES: tuple[tuple[Score, float], ...] = (
    (untainted, 3),
    (preferred_affinity, 2),
    (owner_spread, 2),
    (least_allocated, 1),
    (balanced_allocation, 1),
)


def best_node(pod: PodInfo, nodes: Sequence[NodeInfo]) -> NodeInfo:
    """The node with the highest score; `nodes` must not be empty.

    Differs from upstream: equals are told apart by fewer pods, then by name, not by chance, so that the
    same manifests on the same cluster give the same picture.
    """
    if len(nodes) == 1:
        return nodes[0]
    totals = [0.0] * len(nodes)
    for score, weight in SCORES:
        for position, value in enumerate(score(pod, nodes)):
            totals[position] += weight * value
    ranked = sorted(
        zip(nodes, totals, strict=True),
        # Scores that differ by less than a rounding error are equal.
        key=lambda pair: (-round(pair[1], 6), len(pair[0].pods), pair[0].name),
    )
    return ranked[0][0]
