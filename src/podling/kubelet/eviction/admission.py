"""Which new pods a node under pressure takes: pure.

Kubernetes documentation, "Node-pressure Eviction", "Node conditions": short of memory, it keeps best-effort
pods away; short of anything else, all but critical ones.
"""

from __future__ import annotations

from podling.api import core_v1
from podling.api.pods import qos_class
from podling.api.taints import tolerates
from podling.kubelet import names
from podling.kubelet.eviction import messages
from podling.kubelet.eviction.ranking import is_critical
from podling.kubelet.status import Failure

MEMORY_TAINT = core_v1.Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")


def refusal(pod: core_v1.Pod, conditions: frozenset[str]) -> Failure | None:
    """None when it may start."""
    if not conditions or is_critical(pod):
        return None
    if conditions == {"MemoryPressure"} and (
        qos_class(pod) != "BestEffort"
        or any(tolerates(one, MEMORY_TAINT) for one in names.pod_spec(pod).tolerations)
    ):
        return None
    text = messages.node_condition(conditions)
    return Failure(reason=messages.REASON, message=f"Pod was rejected: {text}")
