"""What a cluster uses of the machine, from the kernel's own accounts."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from podling.api import core_v1
from podling.testing.cluster import PodlingCluster

RECORD = "/var/lib/podling/clusters/{}/cluster.json"


def processes(cluster: str) -> Iterator[tuple[int, str]]:
    """PID and a name for each process of the cluster: all in its cgroups, and its supervisor."""
    record = json.loads(Path(RECORD.format(cluster)).read_text())
    names = {ref["pid"]: name for name, ref in record["processes"].items()}
    yield record["supervisor"]["pid"], "supervisor"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = f"/podling/{cluster}/" in (entry / "cgroup").read_text()
            if inside:
                pid = int(entry.name)
                yield pid, names.get(pid) or (entry / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue


def pss_bytes(cluster: str) -> dict[str, int]:
    """Proportional set size by process name: shared pages are counted once, split among their users."""
    total: dict[str, int] = defaultdict(int)
    for pid, name in processes(cluster):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                total[name] += int(line.split()[1]) * 1024
    return dict(total)


def cpu_seconds(cluster: str) -> float:
    """User and system time of the cluster's processes and the children they have waited for."""
    ticks = 0
    for pid, _ in processes(cluster):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = text[text.rindex(")") + 2 :].split()
        ticks += sum(int(f) for f in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def pause_pid(cluster: PodlingCluster, pod: core_v1.Pod) -> int:
    """The pause container of a running pod, by this machine's PIDs: the one whose cgroup is the pod's."""
    uid = pod.metadata.uid or ""
    for pid, name in processes(cluster.name):
        if name == "pause" and uid in Path(f"/proc/{pid}/cgroup").read_text().replace("_", "-"):
            return pid
    raise LookupError(f"no pause process for pod {pod.metadata.name} ({uid})")
