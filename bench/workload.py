"""What the scenarios do to a cluster, and how they watch it: through the public API, as any client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from podling.api import core_v1, meta_v1
from podling.client.client import Client
from podling.client.http import HttpTransport
from podling.client.kubeconfig import client_config
from podling.testing.cluster import PodlingCluster


def sleeper(name: str, *, containers: int = 1, scheduler: str | None = None) -> core_v1.Pod:
    """A pod of busybox containers that sleep and end at once on SIGTERM."""
    script = "trap 'exit 0' TERM; sleep 100000 & wait"
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(name=name, namespace="default", labels={"app": "bench"}),
        spec=core_v1.PodSpec(
            scheduler_name=scheduler,
            containers=[
                core_v1.Container(
                    name=f"c{i}", image="busybox", image_pull_policy="Never", command=["sh", "-c", script]
                )
                for i in range(containers)
            ],
        ),
    )


@asynccontextmanager
async def connect(cluster: PodlingCluster) -> AsyncIterator[Client]:
    transport = HttpTransport(client_config(Path(cluster.env["KUBECONFIG"])))
    try:
        yield Client(transport, user_agent="podling-bench")
    finally:
        await transport.close()


class PodWatch:
    """The newest state of every pod of `default`, and when each first met a condition."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = asyncio.Condition()
        self.pods: dict[str, core_v1.Pod] = {}

    async def run(self, started: asyncio.Event) -> None:
        listed = await self._client.list(core_v1.Pod, "default")
        self.pods = {p.metadata.name or "": p for p in listed.items}
        started.set()
        async for event in self._client.watch(
            core_v1.Pod, "default", resource_version=listed.resource_version
        ):
            name = event.object.metadata.name or ""
            async with self._changed:
                if event.type == "DELETED":
                    self.pods.pop(name, None)
                else:
                    self.pods[name] = event.object
                self._changed.notify_all()

    async def until(
        self, condition: Callable[[dict[str, core_v1.Pod]], bool], timeout_s: float = 120.0
    ) -> float:
        """The time (`time.perf_counter`) at which `condition` of all pods was first seen to hold."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: condition(self.pods))
            return time.perf_counter()


@asynccontextmanager
async def watch_pods(client: Client) -> AsyncIterator[PodWatch]:
    watch = PodWatch(client)
    started = asyncio.Event()
    task = asyncio.create_task(watch.run(started), name="pod watch")
    try:
        await started.wait()
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def running(pod: core_v1.Pod | None) -> bool:
    """Phase Running and every container ready."""
    if pod is None or pod.status is None or pod.status.phase != "Running":
        return False
    assert pod.spec is not None
    statuses = pod.status.container_statuses
    return len(statuses) == len(pod.spec.containers) and all(s.ready for s in statuses)
