"""What every pod worker needs of the node: one frozen bundle instead of a dozen parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from podling.api import core_v1
from podling.client.client import Client
from podling.kubelet.backoff import Backoff
from podling.kubelet.cgroups import PodCgroups
from podling.kubelet.config import KubeletConfig
from podling.kubelet.dns import ResolvConf, parse_resolv_conf
from podling.kubelet.events import PodEvents
from podling.kubelet.images import ImageManager
from podling.kubelet.objects import ObjectCache
from podling.kubelet.probes.counts import ProbeCounts
from podling.kubelet.status_manager import StatusManager
from podling.kubelet.tokens import PodTokens
from podling.kubelet.userns import UserNamespaces
from podling.runtime.cri.service import RuntimeService

NetworkGate = Callable[[core_v1.Pod, Sequence[str]], Awaitable[None]]
"""Asked with a pod and its addresses before its first container starts: returns when its network is as it
must be from the first packet on. Raises TimeoutError."""


async def open_gate(pod: core_v1.Pod, ips: Sequence[str]) -> None:
    """Nobody has anything to do to a pod's network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodServices:
    config: KubeletConfig
    client: Client
    runtime: RuntimeService
    images: ImageManager
    objects: ObjectCache
    tokens: PodTokens
    cluster_services: Mapping[tuple[str, str], core_v1.Service]
    """Every Service of the cluster by namespace and name, kept up to date."""
    events: PodEvents
    statuses: StatusManager
    backoff: Backoff
    cgroups: PodCgroups
    network_gate: NetworkGate
    users: UserNamespaces
    allocatable: Mapping[str, str]
    """The node's allocatable resources."""
    node_memory_bytes: int
    probe_counts: ProbeCounts
    wall_clock: Callable[[], float]
    """Seconds since the epoch; the runtime stamps containers' ends in the same clock."""

    def resolver(self) -> ResolvConf:
        """The node's resolver as it is now: it changes when a laptop changes networks."""
        try:
            return parse_resolv_conf(self.config.resolv_conf.read_text())
        except FileNotFoundError:
            return ResolvConf()
