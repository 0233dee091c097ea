"""What a node has, and what of it pods may have.

Kubernetes documentation, "Reserve Compute Resources for System Daemons", "Node Allocatable":
capacity - kube-reserved - system-reserved - hard eviction threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from podling.api.quantity import format_milli, parse_quantity
from podling.kubelet.config import KubeletConfig
from podling.kubelet.machine_info import MachineInfo, capacity

THRESHOLD_OF = {"memory": "memory.available", "ephemeral-storage": "nodefs.available"}
KIB = 1024


def node_capacity(config: KubeletConfig, machine: MachineInfo) -> dict[str, str]:
    """As `status.capacity` lists it."""
    pods = config.max_pods
    if config.pods_per_core > 0:
        pods = min(pods, config.pods_per_core * machine.cpus)
    return capacity(machine, max_pods=pods)


def node_allocatable(config: KubeletConfig, machine: MachineInfo) -> dict[str, str]:
    """As `status.allocatable` lists it. Never below zero."""
    resources = node_capacity(config, machine)
    for name in ("cpu", "memory", "ephemeral-storage"):
        whole = parse_quantity(resources[name])
        taken = _reserved(config.kube_reserved, name) + _reserved(config.system_reserved, name)
        for threshold in config.eviction_hard:
            if threshold.signal == THRESHOLD_OF.get(name):
                taken += threshold.amount(int(whole))
        if taken:
            left = max(Decimal(0), whole - taken)
            resources[name] = format_milli(int(left * 1000)) if name == "cpu" else f"{int(left) // KIB}Ki"
    return resources


def _reserved(amounts: Mapping[str, str], name: str) -> Decimal:
    return parse_quantity(amounts.get(name, "0"))
