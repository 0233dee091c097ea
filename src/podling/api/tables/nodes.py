"""Nodes as a table."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from podling.api.tables.columns import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    Cells,
    Object,
    Table,
    age,
    column,
    metadata,
    name,
)

_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_ROLE_LABEL: Final = "kubernetes.io/role"
_ADDRESSES: Final = "List of addresses reachable to the node. Queried from cloud provider, if available."

COLUMNS: Final = (
    NAME,
    column("Status", "The status of the node"),
    column("Roles", "The roles of the node"),
    AGE,
    column("Version", "Kubelet Version reported by the node."),
    column("Internal-IP", _ADDRESSES, wide=True),
    column("External-IP", _ADDRESSES, wide=True),
    column("OS-Image", "OS Image reported by the node from /etc/os-release.", wide=True),
    column("Kernel-Version", "Kernel Version reported by the node from 'uname -r'.", wide=True),
    column("Container-Runtime", "ContainerRuntime Version reported by the node.", wide=True),
)


def _cells(node: Object, now: datetime) -> Cells:
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    return [
        name(node),
        _status(node),
        _roles(metadata(node).get("labels") or {}),
        age(node, now),
        info.get("kubeletVersion", ""),
        _address(status, "InternalIP"),
        _address(status, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _status(node: Object) -> str:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((c for c in conditions if c.get("type") == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(labels: Object) -> str:
    roles = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)}
    roles.add(labels.get(_ROLE_LABEL, ""))
    return ",".join(sorted(filter(None, roles))) or NONE


def _address(status: Object, type_: str) -> str:
    addresses = status.get("addresses") or ()
    return next((a["address"] for a in addresses if a.get("type") == type_), NONE)


NODES: Final = Table(columns=COLUMNS, cells=_cells)
