"""Any process may be killed with -9 at any moment: here agents, monitors, pause and containers, at random,
under load. Afterwards every pod is as its spec says, and once they are deleted nothing of them is left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

PODS = 8
KILLING_S = 15.0
NODES = ("kube-node-1", "kube-node-2")
VICTIMS = {
    "agent": ("python", "python3"),
    "conmon": ("conmon",),
    "pause": ("pause",),
    "container": ("sh", "sleep"),
}


def processes(cluster: str) -> Iterator[tuple[int, str, str]]:
    """PID, program and cgroup of each process of the cluster's pods and agents."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cgroup = (entry / "cgroup").read_text()
            program = os.path.basename((entry / "cmdline").read_bytes().split(b"\0")[0]).decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        mine = f"/podling/{cluster}/" in cgroup
        # A node's own pause is its plug, the control plane is another test's.
        if mine and not any(f"/{group}\n" in cgroup for group in ("init", "control-plane", "exec")):
            yield int(entry.name), program, cgroup


def kill_one(cluster: str, chance: random.Random) -> str | None:
    kind = chance.choice(list(VICTIMS))
    found = [pid for pid, program, _ in processes(cluster) if program in VICTIMS[kind]]
    if not found:
        return None
    try:
        os.kill(chance.choice(found), signal.SIGKILL)
    except ProcessLookupError:
        return None
    return kind


def test_random_kills_lose_no_pod_and_leave_nothing(images: None) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    name = "chaos"
    with PodlingCluster(name) as cluster:
        cluster.apply([pod(f"p{i}", busybox("a"), busybox("b")) for i in range(PODS)])
        for i in range(PODS):
            cluster.wait(f"pod/p{i}", "condition=Ready")
        uids = {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.get("pods")["items"]}
        killed: Counter[str | None] = Counter()
        deadline = time.monotonic() + KILLING_S
        while time.monotonic() < deadline:
            killed[kill_one(name, chance)] += 1
            time.sleep(chance.uniform(0.05, 0.6))
        context = f"seed {seed}, killed {dict(killed)}"
        assert set(VICTIMS) <= set(killed), context

        def all_well() -> None:
            items = cluster.get("pods")["items"]
            assert {p["metadata"]["name"]: p["metadata"]["uid"] for p in items} == uids, context
            not_ready = [
                (p["metadata"]["name"], s)
                for p in items
                for s in p["status"]["containerStatuses"]
                if not s["ready"]
            ]
            assert not not_ready, (context, not_ready)

        # Containers killed again and again are held back, 10 s, 20 s, 40 s, ...
        eventually(all_well, timeout_s=150, interval_s=1)
        cluster.kubectl("delete", "pods", "--all", "--grace-period=1")
        for node in NODES:
            eventually(lambda node=node: nothing_left(cluster, node, context))  # type: ignore[misc]


def nothing_left(cluster: PodlingCluster, node: str, context: str) -> None:
    script = """
        ls /run/netns /var/lib/podling/runtime/containers /var/lib/podling/runtime/sandboxes | grep -v :
        ls /var/lib/cni/networks/podling | grep '^[0-9]'
        grep -E 'overlay /run|/run/podling/.* (overlay|tmpfs)' /proc/mounts
        ip -o link show type veth | grep -v ' eth0@'
        find /sys/fs/cgroup -path '*kubepods*' -name 'pod*' -type d
    """
    left = cluster.node(node, "sh", "-c", script, check=False).split("\n")
    assert not [line for line in left if line.strip()], (context, node, left)
    strays = [
        p for p in processes(cluster.name) if f"/{node}/" in p[2] and p[1] in ("conmon", "pause", "crun")
    ]
    assert not strays, (context, strays)
