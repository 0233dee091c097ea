"""The scenarios, in the order in which they run. Each gets a cluster that is up and idle, and leaves it so.

Reference, measured on a machine with 2 cores (Kubernetes 1.20, containerd, etcd, one node, images local):
22 s to a Ready node, 0.9 to 1.2 s from create to Running, 38 s for 50 pods, 3.9 s from a killed pause to all
containers running, 725 MB with no pod and 5.9 MB a pod, 10 % of a core idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench import cni, cri, network, services, usage
from bench.report import Metric, Report
from bench.workload import connect, running, sleeper, watch_pods
from podling.api import core_v1
from podling.testing.cluster import PodlingCluster

Scenario = Callable[[PodlingCluster], Report]


def cluster_up(_: PodlingCluster, runs: int = 5) -> Report:
    """`podling up` of three nodes to all Ready, as a user waits for it; and `podling down`."""
    ups, downs = [], []
    for _run in range(runs):
        each = PodlingCluster("bench-up")
        began = time.perf_counter()
        with each:
            ups.append(time.perf_counter() - began)
            began = time.perf_counter()
        downs.append(time.perf_counter() - began)
    return Report(
        scenario="cluster",
        metrics=(
            Metric(name="up, three nodes Ready", unit="s", samples=tuple(ups), goal=2.0),
            Metric(name="down", unit="s", samples=tuple(downs)),
        ),
    )


def pod_start(cluster: PodlingCluster, runs: int = 20) -> Report:
    """A pod of one container at a time: create to Running and ready; delete to gone."""
    starts, deletes = asyncio.run(_one_by_one(cluster, runs))
    return Report(
        scenario="pod",
        metrics=(
            Metric(name="create to Running", unit="ms", samples=tuple(starts), goal=120.0),
            Metric(name="create to Running", unit="ms", samples=tuple(starts), goal=300.0, worst=True),
            Metric(name="delete to gone", unit="ms", samples=tuple(deletes)),
        ),
    )


async def _one_by_one(cluster: PodlingCluster, runs: int) -> tuple[list[float], list[float]]:
    starts, deletes = [], []
    async with connect(cluster) as client, watch_pods(client) as watch:
        for i in range(runs):
            name = f"one-{i}"
            began = time.perf_counter()
            await client.create(sleeper(name))
            starts.append((await watch.until(lambda pods, n=name: running(pods.get(n))) - began) * 1000)  # type: ignore[misc]
            began = time.perf_counter()
            await client.delete(core_v1.Pod, name, "default")
            deletes.append((await watch.until(lambda pods, n=name: n not in pods) - began) * 1000)  # type: ignore[misc]
    return starts, deletes


def many_pods(cluster: PodlingCluster, count: int = 50, runs: int = 3) -> Report:
    """Fifty pods at once, running; then all deleted, gone."""
    starts, deletes = asyncio.run(_at_once(cluster, count, runs))
    return Report(
        scenario="pods",
        metrics=(
            Metric(name=f"{count} created to all Running", unit="s", samples=tuple(starts), goal=4.0),
            Metric(name=f"{count} deleted to all gone", unit="s", samples=tuple(deletes), goal=4.0),
        ),
    )


async def _at_once(cluster: PodlingCluster, count: int, runs: int) -> tuple[list[float], list[float]]:
    starts, deletes = [], []
    async with connect(cluster) as client, watch_pods(client) as watch:
        for run in range(runs):
            names = [f"many-{run}-{i}" for i in range(count)]
            began = time.perf_counter()
            await asyncio.gather(*(client.create(sleeper(n)) for n in names))
            starts.append(await watch.until(lambda pods: sum(map(running, pods.values())) == count) - began)
            began = time.perf_counter()
            await asyncio.gather(*(client.delete(core_v1.Pod, n, "default") for n in names))
            deletes.append(await watch.until(lambda pods: not pods) - began)
    return starts, deletes


def lost_pause(cluster: PodlingCluster, runs: int = 5) -> Report:
    """The pause container of a pod of three is killed: time until all three run again. A new pod each run,
    so that no back-off has begun."""
    samples = asyncio.run(_kill_pause(cluster, runs))
    metric = Metric(name="killed to all running", unit="ms", samples=tuple(samples), goal=400.0)
    return Report(scenario="pause", metrics=(metric,))


async def _kill_pause(cluster: PodlingCluster, runs: int) -> list[float]:
    samples = []
    async with connect(cluster) as client, watch_pods(client) as watch:
        for i in range(runs):
            name = f"pause-{i}"
            made = await client.create(sleeper(name, containers=3))
            await watch.until(lambda pods, n=name: running(pods.get(n)))  # type: ignore[misc]
            pid = await asyncio.to_thread(usage.pause_pid, cluster, watch.pods[name])
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            samples.append((await watch.until(lambda pods, n=name: _restarted(pods.get(n))) - began) * 1000)  # type: ignore[misc]
            await client.delete(core_v1.Pod, name, "default", uid=made.metadata.uid)
            await watch.until(lambda pods: not pods)
    return samples


def _restarted(pod: core_v1.Pod | None) -> bool:
    if pod is None or not running(pod):
        return False
    assert pod.status is not None
    return all(s.restart_count == 1 for s in pod.status.container_statuses)


def footprint(cluster: PodlingCluster, pods: int = 30, idle_s: float = 10.0) -> Report:
    """Memory (PSS of every process of the cluster) idle and per pod; processor time of the idle cluster."""
    time.sleep(2)  # what the scenario before left to do
    before = usage.cpu_seconds(cluster.name)
    time.sleep(idle_s)
    idle_percent = (usage.cpu_seconds(cluster.name) - before) / idle_s * 100
    idle = usage.pss_bytes(cluster.name)
    loaded = asyncio.run(_loaded(cluster, pods))
    return Report(
        scenario="footprint",
        metrics=(
            Metric(
                name="three nodes, no pod", unit="MB PSS", samples=(sum(idle.values()) / 1e6,), goal=250.0
            ),
            Metric(
                name=f"a pod more (of {pods})",
                unit="MB PSS",
                samples=((sum(loaded.values()) - sum(idle.values())) / pods / 1e6,),
                goal=2.5,
            ),
            Metric(name="idle", unit="% of a core", samples=(idle_percent,), goal=3.0),
        ),
        notes=(f"idle memory by process, MB: {json.dumps({k: round(v / 1e6, 1) for k, v in idle.items()})}",),
    )


async def _loaded(cluster: PodlingCluster, count: int) -> dict[str, int]:
    names = [f"mem-{i}" for i in range(count)]
    async with connect(cluster) as client, watch_pods(client) as watch:
        await asyncio.gather(*(client.create(sleeper(n)) for n in names))
        await watch.until(lambda pods: sum(map(running, pods.values())) == count)
        measured = await asyncio.to_thread(usage.pss_bytes, cluster.name)
        await asyncio.gather(*(client.delete(core_v1.Pod, n, "default") for n in names))
        await watch.until(lambda pods: not pods)
    return measured


def api(cluster: PodlingCluster, count: int = 1000) -> Report:
    """A thousand pods that no scheduler takes: creates at 16 at a time, then LIST of all."""
    creates, lists = asyncio.run(_api(cluster, count))
    return Report(
        scenario="api",
        metrics=(
            Metric(name="creates, 16 at a time", unit="/s", samples=(creates,)),
            Metric(name=f"LIST of {count} pods", unit="ms", samples=tuple(lists)),
        ),
    )


async def _api(cluster: PodlingCluster, count: int) -> tuple[float, list[float]]:
    lists = []
    async with connect(cluster) as client:
        gate = asyncio.Semaphore(16)

        async def create(i: int) -> None:
            async with gate:
                await client.create(sleeper(f"api-{i}", scheduler="nobody"))

        began = time.perf_counter()
        await asyncio.gather(*(create(i) for i in range(count)))
        rate = count / (time.perf_counter() - began)
        for _ in range(10):
            began = time.perf_counter()
            listed = await client.raw("GET", "/api/v1/namespaces/default/pods")
            lists.append((time.perf_counter() - began) * 1000)
            assert len(listed["items"]) == count
        await client.raw("DELETE", "/api/v1/namespaces/default/pods", query={"labelSelector": "app=bench"})
    return rate, lists


PHASE_LINE = re.compile(r"DEBUG podling\.runtime\.timings: \S+ (.+) ([\d.]+) ms$", re.M)


def phases(_: PodlingCluster, runs: int = 20) -> Report:
    """Where the time of one pod start goes: the API's part by watching, the runtime's from its own log."""
    with PodlingCluster("bench-phases", workers=1, options=("--no-egress", "--v", "4")) as cluster:
        steps = asyncio.run(_steps(cluster, runs))
        log = Path(f"/var/lib/podling/clusters/{cluster.name}/logs/agent@kube-node-1.log").read_text()
    for name, duration in PHASE_LINE.findall(log):
        steps.setdefault(f"runtime: {name}", []).append(float(duration))
    metrics = (Metric(name=n, unit="ms", samples=tuple(s)) for n, s in steps.items())
    return Report(scenario="phases", metrics=tuple(metrics))


async def _steps(cluster: PodlingCluster, runs: int) -> dict[str, list[float]]:
    steps: dict[str, list[float]] = {"create answered": [], "bound seen": [], "running seen": []}
    async with connect(cluster) as client, watch_pods(client) as watch:
        for i in range(runs):
            name = f"step-{i}"
            began = time.perf_counter()
            await client.create(sleeper(name))
            steps["create answered"].append((time.perf_counter() - began) * 1000)
            bound = await watch.until(lambda pods, n=name: n in pods and bool(pods[n].spec.node_name))  # type: ignore[misc, union-attr]
            steps["bound seen"].append((bound - began) * 1000)
            done = await watch.until(lambda pods, n=name: running(pods.get(n)))  # type: ignore[misc]
            steps["running seen"].append((done - began) * 1000)
            await client.delete(core_v1.Pod, name, "default")
            await watch.until(lambda pods: not pods)
    return steps


SCENARIOS: dict[str, Scenario] = {
    "pod": pod_start,
    "pods": many_pods,
    "pause": lost_pause,
    "footprint": footprint,
    "api": api,
    "phases": phases,
    "services": services.measure,
    "cni": cni.measure,
    "network": network.measure,
    "cri": cri.run,
    "cluster": cluster_up,
}
