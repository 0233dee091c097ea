"""The node's lease: says every ten seconds that the node lives.

Kubernetes documentation, "Leases", "Node heartbeats": object `kube-node-lease/NODE`, 40 s long, renewed
after a quarter of that. The renewal is a patch of the time only, a few hundred bytes.
"""

from __future__ import annotations

import asyncio
import logging

from podling.api import coordination_v1, core_v1, meta_v1
from podling.api.times import now_micro
from podling.client.client import Client
from podling.client.errors import AlreadyExistsError, ClientError, NotFoundError
from podling.kubelet.config import KubeletConfig

NAMESPACE = "kube-node-lease"
RETRY_MIN_S = 0.2
RETRY_MAX_S = 7.0

log = logging.getLogger(__name__)


class NodeLease:
    """`run()` is a task of the kubelet's group, started once the node is registered."""

    def __init__(self, config: KubeletConfig, client: Client) -> None:
        self._config = config
        self._client = client

    async def run(self) -> None:
        renew_s = self._config.lease_duration_s / 4
        retry_s = RETRY_MIN_S
        while True:
            try:
                await self._renew()
            except ClientError as err:
                log.warning("lease of node %s was not renewed: %s", self._config.node_name, err)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_MAX_S)
            else:
                retry_s = RETRY_MIN_S
                await asyncio.sleep(renew_s)

    async def _renew(self) -> None:
        name = self._config.node_name
        spec = {
            "holderIdentity": name,
            "leaseDurationSeconds": self._config.lease_duration_s,
            "renewTime": now_micro(),
        }
        try:
            await self._client.patch(coordination_v1.Lease, name, {"spec": spec}, NAMESPACE)
        except NotFoundError:
            await self._create()

    async def _create(self) -> None:
        name = self._config.node_name
        node = await self._client.get(core_v1.Node, name)
        lease = coordination_v1.Lease(
            metadata=meta_v1.ObjectMeta(
                name=name,
                namespace=NAMESPACE,
                owner_references=[
                    meta_v1.OwnerReference(
                        api_version="v1", kind="Node", name=name, uid=node.metadata.uid or ""
                    )
                ],
            ),
            spec=coordination_v1.LeaseSpec(
                holder_identity=name,
                lease_duration_seconds=self._config.lease_duration_s,
                renew_time=now_micro(),
            ),
        )
        try:
            await self._client.create(lease, NAMESPACE)
        except AlreadyExistsError:
            log.debug("lease of node %s was made meanwhile", name)
