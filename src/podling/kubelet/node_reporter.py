"""Registers the Node and keeps its status true: a patch on change, and one every five minutes.

That the node lives is said by its lease (`lease.py`), which is cheap; the status is only written when it
says something new (Kubernetes documentation, "Nodes", "Node heartbeats").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from podling.api import core_v1
from podling.api.times import now_rfc3339
from podling.client.client import Client, PatchType
from podling.client.errors import AlreadyExistsError, ClientError
from podling.kubelet.config import KubeletConfig
from podling.kubelet.events import NORMAL, PodEvents
from podling.kubelet.machine_info import MachineInfo
from podling.kubelet.node_status import (
    NodeFacts,
    changed_but_for_heartbeats,
    compute_node,
    compute_node_status,
    default_labels,
    features_of,
    handlers_of,
    images_of,
    runtime_errors,
)
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.service import ImageService, RuntimeService

RETRY_MIN_S = 0.05
RETRY_MAX_S = 5.0
NOT_READY_CHECK_S = 0.25
"""While the runtime is not ready nothing tells us when it will be, and a cluster waits for it."""

log = logging.getLogger(__name__)


class NodeReporter:
    """`run()` is a task of the kubelet's group."""

    def __init__(
        self,
        config: KubeletConfig,
        client: Client,
        runtime: RuntimeService,
        images: ImageService,
        events: PodEvents,
        machine: MachineInfo,
        pressure: Callable[[], frozenset[str]],
    ) -> None:
        self._config = config
        self._client = client
        self._runtime = runtime
        self._images = images
        self._events = events
        self._machine = machine
        self._pressure = pressure
        self._soon = asyncio.Event()
        self._known = core_v1.NodeStatus()
        self._sent_at = 0.0
        self._registered = asyncio.Event()

    async def wait_registered(self) -> None:
        """Until the API has this node."""
        await self._registered.wait()

    def report_soon(self) -> None:
        """Something of the status changed that cannot wait for the next round."""
        self._soon.set()

    async def run(self) -> None:
        if self._config.register_node:
            await self._register()
        else:
            await self._find()
        self._events.node(self._config.node_name, NORMAL, "Starting", "Starting kubelet.")
        while True:
            ready = any(c.type == "Ready" and c.status == "True" for c in self._known.conditions)
            wait_s = self._config.node_status_update_frequency_s if ready else NOT_READY_CHECK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._soon.wait()
            self._soon.clear()
            try:
                await self._report()
            except ClientError as err:
                log.warning("node status was not written: %s", err)
                await asyncio.sleep(1.0)

    async def _find(self) -> None:
        """Somebody else registers this node: wait until they have."""
        while True:
            try:
                node = await self._client.get(core_v1.Node, self._config.node_name)
            except ClientError as err:
                log.info("node %s, which this kubelet does not register: %s", self._config.node_name, err)
                await asyncio.sleep(RETRY_MAX_S)
            else:
                self._known = node.status or core_v1.NodeStatus()
                self._registered.set()
                return

    async def _register(self) -> None:
        """Create the Node with its first status, or bring an existing one up to date; until it works."""
        retry_s = RETRY_MIN_S
        while True:
            try:
                await self._register_once()
            except ClientError as err:
                log.info("registering node %s: %s", self._config.node_name, err)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_MAX_S)
            else:
                self._registered.set()
                return

    async def _register_once(self) -> None:
        labels = default_labels(self._config, self._machine)
        status = await self._status()
        node = compute_node(self._config, labels, self._machine, status)
        try:
            created = await self._client.create(node)
        except AlreadyExistsError:
            await self._adopt(labels)
            return
        self._note_sent(status)
        if created.status is None or not created.status.conditions:
            # This API server keeps a status out of what is created: send it where it belongs.
            await self._send(status)

    async def _adopt(self, labels: dict[str, str]) -> None:
        """The Node is there, from before a restart: its labels are ours, its subnet if it has none."""
        node = await self._client.get(core_v1.Node, self._config.node_name)
        patch: dict[str, Any] = {}
        if any(node.metadata.labels.get(key) != value for key, value in labels.items()):
            patch["metadata"] = {"labels": labels}
        if self._config.pod_cidr and not (node.spec and node.spec.pod_cidr):
            patch["spec"] = {"podCIDR": self._config.pod_cidr, "podCIDRs": [self._config.pod_cidr]}
        if patch:
            await self._client.patch(core_v1.Node, self._config.node_name, patch)
        self._known = node.status or core_v1.NodeStatus()
        await self._send(await self._status())

    async def _report(self) -> None:
        status = await self._status()
        due = time.monotonic() - self._sent_at >= self._config.node_status_report_frequency_s
        if due or changed_but_for_heartbeats(self._known, status):
            await self._send(status)

    async def _send(self, status: core_v1.NodeStatus) -> None:
        await self._client.patch(
            core_v1.Node,
            self._config.node_name,
            {"status": msgspec.to_builtins(status)},
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )
        self._note_sent(status)

    def _note_sent(self, status: core_v1.NodeStatus) -> None:
        self._known = status
        self._sent_at = time.monotonic()

    async def _status(self) -> core_v1.NodeStatus:
        response: cri.StatusResponse | None = None
        error, version = "", "unknown://"
        images: list[core_v1.ContainerImage] = []
        try:
            response = await self._runtime.status(cri.StatusRequest())
            told = await self._runtime.version(cri.VersionRequest(version="v1"))
            version = f"{told.runtime_name}://{told.runtime_version}"
            images = images_of(await self._images.list_images(cri.ListImagesRequest()))
        except CRIError as err:
            error = err.message
        facts = NodeFacts(
            config=self._config,
            machine=self._machine,
            runtime_version=version,
            runtime_errors=runtime_errors(response, error),
            images=images,
            pressure=self._pressure(),
            now=now_rfc3339(),
            handlers=handlers_of(response),
            features=features_of(response),
        )
        return compute_node_status(facts, self._known.conditions)
