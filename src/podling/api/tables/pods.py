"""Pods as a table: the STATUS, READY and RESTARTS people know.

STATUS is no field of the API: it is worked out from phase, reasons and container states, so that the
one thing that keeps a pod from running is what one sees (`Init:1/3`, `CrashLoopBackOff`, `Terminating`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from podling.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    Cells,
    Object,
    Table,
    age,
    column,
    metadata,
    name,
    since,
)

COLUMNS: Final = (
    NAME,
    column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container "
        "in this pod has restarted.",
    ),
    AGE,
    column("IP", "podIP address allocated to the pod. Routable at least within the cluster.", wide=True),
    column("Node", "NodeName indicates in which node this pod is scheduled.", wide=True),
    column(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be "
        "scheduled right away as preemption victims receive their graceful termination periods.",
        wide=True,
    ),
    column(
        "Readiness Gates",
        "If specified, all readiness gates will be evaluated for pod readiness.",
        wide=True,
    ),
)


@dataclass(slots=True)
class Summary:
    """What the columns say about a pod's containers."""

    status: str
    ready: int = 0
    total: int = 0
    restarts: int = 0
    last_restart: str = ""
    """When the last container to be restarted had ended; empty for never."""


def summarize(pod: Object) -> Summary:
    """Work out READY, STATUS and RESTARTS of a pod."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    summary = Summary(status.get("reason") or status.get("phase") or "")
    conditions = status.get("conditions") or ()
    if any(c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in conditions):
        summary.status = "SchedulingGated"
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    summary.total = len(spec.get("containers") or ()) + len(sidecars)

    waiting = _count_init(summary, spec, status, sidecars)
    if not waiting or _is_true(conditions, "Initialized"):
        _restarts_of(summary, status, sidecars)
        _count_running(summary, status, conditions)
    if metadata(pod).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.status = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            summary.status = "Terminating"
    return summary


def _count_init(summary: Summary, spec: Object, status: Object, sidecars: set[str]) -> bool:
    """Go through the init containers up to the one that is not done; say whether there is one."""
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        _add_restarts(summary, container)
        state = container.get("state") or {}
        ended, pending = state.get("terminated"), state.get("waiting")
        if ended and not ended.get("exitCode"):
            continue
        if container.get("name") in sidecars and container.get("started"):
            summary.ready += bool(container.get("ready"))
            continue
        if ended:
            summary.status = f"Init:{_ended(ended)}"
        elif pending and pending.get("reason") not in (None, "", "PodInitializing"):
            summary.status = f"Init:{pending['reason']}"
        else:
            summary.status = f"Init:{index}/{len(spec.get('initContainers') or ())}"
        return True
    return False


def _restarts_of(summary: Summary, status: Object, sidecars: set[str]) -> None:
    """Forget the restarts of init containers that are done; those of sidecars count on."""
    summary.restarts, summary.last_restart = 0, ""
    for container in status.get("initContainerStatuses") or ():
        if container.get("name") in sidecars:
            _add_restarts(summary, container)


def _count_running(summary: Summary, status: Object, conditions: Any) -> None:
    running = False
    # Backwards, so that the first container's trouble is what one sees.
    for container in reversed(status.get("containerStatuses") or ()):
        _add_restarts(summary, container)
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            summary.status = state["waiting"]["reason"]
        elif state.get("terminated"):
            summary.status = _ended(state["terminated"])
        elif container.get("ready") and state.get("running"):
            running = True
            summary.ready += 1
    if summary.status == "Completed" and running:
        summary.status = "Running" if _is_true(conditions, "Ready") else "NotReady"


def _add_restarts(summary: Summary, container: Object) -> None:
    summary.restarts += container.get("restartCount") or 0
    ended = ((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
    # RFC 3339 in UTC sorts as text.
    summary.last_restart = max(summary.last_restart, ended)


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _is_true(conditions: Any, type_: str) -> bool:
    return any(c.get("type") == type_ and c.get("status") == "True" for c in conditions)


def _cells(pod: Object, now: datetime) -> Cells:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    summary = summarize(pod)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts = f"{summary.restarts} ({since(summary.last_restart, now)} ago)"
    addresses = status.get("podIPs") or ()
    address = addresses[0].get("ip") if addresses else status.get("podIP")
    gates = [gate.get("conditionType", "") for gate in spec.get("readinessGates") or ()]
    passed = sum(_is_true(status.get("conditions") or (), gate) for gate in gates)
    return [
        name(pod),
        f"{summary.ready}/{summary.total}",
        summary.status,
        restarts,
        age(pod, now),
        address or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    ]


PODS: Final = Table(columns=COLUMNS, cells=_cells)
