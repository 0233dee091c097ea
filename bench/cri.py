"""`python -m bench cri`: our CRI and containerd's, side by side, through the same client.

Both run here, in namespaces of their own, on the same images from the same archives, without Kubernetes
above them: RunPodSandbox + CreateContainer + StartContainer one at a time, many sandboxes at once, an exec,
and the memory a pod adds. They take turns, so a busy moment of the machine meets both. So does a bare `crun
run` of the bundle of the container just started; what of the start is whose is in our runtime's own log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from bench.report import Metric, Report, table, write
from podling.cni.install import install
from podling.linux import syscalls as sc
from podling.linux.cgroups import Cgroups, Layout
from podling.linux.mounts import read_mountinfo
from podling.pause.build import pause_path
from podling.runtime.config import RuntimeConfig
from podling.runtime.cri import messages as cri
from podling.runtime.cri.grpc_client import CRIClient
from podling.runtime.images.store import ImageStore
from podling.testing.cluster import PodlingCluster
from podling.testing.containerd import Containerd, conflist, missing, write_test_images

RUNS = 20
AT_ONCE = 50
PODS = 20
"""Of which the memory is measured."""
IMAGE = "docker.io/library/busybox:latest"
CGROUP = "/podling-bench-cri"
"""Above those of the pods of both."""
OURS, THEIRS = "podling", "containerd"
ENDS = ("sandbox: cni del", "sandbox: stop", "sandbox: remove", "container: stop", "container: remove")
"""Phases that are not of a start."""


class Samples(dict[str, list[float]]):
    def add(self, name: str, value: float) -> None:
        self.setdefault(name, []).append(value)


class Side:
    """One of the two runtimes."""

    def __init__(self, name: str, endpoint: str, logs: Path) -> None:
        self.name = name
        self.client = CRIClient(endpoint)
        self._logs = logs
        self._made = 0

    def _config(self) -> cri.PodSandboxConfig:
        self._made += 1
        uid = f"{self.name}-{self._made}"
        modes = cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER)
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=uid, uid=uid, namespace="bench"),
            hostname=uid,
            log_directory=str(self._logs / uid),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=f"{CGROUP}/{uid}",
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=modes),
            ),
        )

    async def run_sandbox(self, config: cri.PodSandboxConfig | None = None) -> str:
        request = cri.RunPodSandboxRequest(config=config or self._config())
        return (await self.client.run_pod_sandbox(request)).pod_sandbox_id

    async def start_pod(self, timed: Samples | None = None) -> str:
        """The container's id; `timed` gets how long each of the three calls took."""
        config = self._config()
        modes = cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER)
        container = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=IMAGE),
            command=["sleep", "100000"],
            log_path="main.log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=modes)
            ),
        )
        began = time.perf_counter()
        sandbox = await self.run_sandbox(config)
        run = time.perf_counter()
        made = await self.client.create_container(
            cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=container, sandbox_config=config)
        )
        created = time.perf_counter()
        await self.client.start_container(cri.StartContainerRequest(container_id=made.container_id))
        started = time.perf_counter()
        if timed is not None:
            timed.add(f"start {self.name}", (started - began) * 1000)
            timed.add(f"RunPodSandbox {self.name}", (run - began) * 1000)
            timed.add(f"CreateContainer {self.name}", (created - run) * 1000)
            timed.add(f"StartContainer {self.name}", (started - created) * 1000)
        return made.container_id

    async def exec(self, container_id: str) -> None:
        request = cri.ExecSyncRequest(container_id=container_id, cmd=["true"])
        assert (await self.client.exec_sync(request)).exit_code == 0

    async def remove_pods(self) -> None:
        for item in (await self.client.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
            await self.client.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
            await self.client.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))


async def measure(sides: list[Side], daemons: dict[str, int], bare: Callable[[str], float]) -> Samples:
    """`bare` runs the bundle of one of our containers without us; milliseconds."""
    samples = Samples()
    for run in range(RUNS + 2):
        kept = samples if run >= 2 else Samples()  # the first ones warm caches
        for side in sides:
            container_id = await side.start_pod(kept)
            kept.add(f"exec {side.name}", await _timed(lambda side=side, c=container_id: side.exec(c)) * 1000)
            if side.name == OURS:
                kept.add("bare", await asyncio.to_thread(bare, container_id))
            await side.remove_pods()
    for _ in range(2):
        for side in sides:
            before = _memory_kib(daemons[side.name])
            await asyncio.gather(*(side.start_pod() for _ in range(PODS)))
            samples.add(f"memory {side.name}", (_memory_kib(daemons[side.name]) - before) / PODS)
            await side.remove_pods()
            work = lambda side=side: asyncio.gather(*(side.run_sandbox() for _ in range(AT_ONCE)))  # noqa: E731
            samples.add(f"rate {side.name}", AT_ONCE / await _timed(work))
            await side.remove_pods()
    return samples


def run_bare(crun: Path, bundles: Path, scratch: Path, container_id: str) -> float:
    """Milliseconds of `crun run` of a container's bundle, beside the one that runs; it is removed again."""
    bundle = scratch / container_id
    bundle.mkdir(parents=True)
    spec = json.loads((bundles / container_id / "config.json").read_bytes())
    spec["linux"]["cgroupsPath"] = f"{CGROUP}/bare-{container_id}"
    (bundle / "config.json").write_text(json.dumps(spec))
    command = [str(crun), f"--root={scratch / 'crun'}", "--cgroup-manager=cgroupfs"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = time.perf_counter()
    subprocess.run([*command, "run", "--detach", f"--bundle={bundle}", container_id], check=True, **quiet)
    took = time.perf_counter() - began
    subprocess.run([*command, "delete", "--force", container_id], check=True, **quiet)
    return took * 1000


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _memory_kib(daemon: int) -> int:
    """Proportional set size of the daemon and of all that was started for pods and is not in a pod."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (int(entry.name) == daemon or _serves_pods(entry)):
            try:
                lines = (entry / "smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total


def _serves_pods(entry: Path) -> bool:
    """A pause of these pods; a shim or monitor of this mount namespace, so of this benchmark."""
    try:
        name = (entry / "comm").read_text().strip()
        if name == "pause":
            return CGROUP in (entry / "cgroup").read_text()
        mine = os.readlink(entry / "ns/mnt") == os.readlink("/proc/self/ns/mnt")
        return mine and name in ("conmon", "containerd-shim")
    except OSError:
        return False


def report(samples: Samples, phases: dict[str, list[float]]) -> Report:
    names = {"start": "ms", "exec": "ms", "rate": "/s", "memory": "KiB"}
    texts = {
        "start": "RunPodSandbox + CreateContainer + StartContainer",
        "exec": "ExecSync of true",
        "rate": f"{AT_ONCE} sandboxes at once",
        "memory": "memory a pod",
    }
    metrics = []
    for key, unit in names.items():
        other = Metric(name=f"{texts[key]}, {THEIRS}", unit=unit, samples=tuple(samples[f"{key} {THEIRS}"]))
        goal = {"start": 0.5, "exec": 1.0, "rate": 2.0, "memory": 0.25}[key] * other.value
        own = Metric(
            name=f"{texts[key]}, {OURS}",
            unit=unit,
            samples=tuple(samples[f"{key} {OURS}"]),
            goal=round(goal, 1),
            at_least=key == "rate",
        )
        metrics += [own, other]
    metrics += [
        Metric(name=f"{call}, {side}", unit="ms", samples=tuple(samples[f"{call} {side}"]))
        for call in ("RunPodSandbox", "CreateContainer", "StartContainer")
        for side in (OURS, THEIRS)
    ]
    metrics += [Metric(name=f"phase {name}", unit="ms", samples=tuple(s)) for name, s in phases.items()]
    bare = Metric(name="bare crun run of the container's bundle", unit="ms", samples=tuple(samples["bare"]))
    started = statistics.median(samples[f"StartContainer {OURS}"])
    overhead = Metric(name="StartContainer, of it", unit="x", samples=(started / bare.value,), goal=2.0)
    note = (
        "goals are of containerd's figure in this run: start half, exec equal, rate twice, memory a quarter"
    )
    return Report(scenario="cri", metrics=(*metrics, bare, overhead), notes=(note,))


PHASE_LINE = re.compile(r"(\S+) ((?:sandbox|container): .+) ([\d.]+) ms$", re.M)


def read_phases(log: Path) -> dict[str, list[float]]:
    """What our runtime has logged of the pods that were started one at a time, after the first two."""
    found: dict[str, list[float]] = {}
    for _, name, took in PHASE_LINE.findall(log.read_text()):
        found.setdefault(name, []).append(float(took))
    return {name: times[2 : RUNS + 2] for name, times in found.items() if name not in ENDS}


async def compare(base: Path) -> Report:
    busybox = shutil.which("busybox")
    if busybox is None or missing():
        raise SystemExit(
            f"bench.cri needs {missing() or 'busybox'} (Debian packages containerd, busybox-static)"
        )
    images = base / "images"
    images.mkdir()
    archives = write_test_images(images, busybox, pause_path())
    async with AsyncExitStack() as undo:
        containerd = undo.enter_context(Containerd(base / "containerd", images=archives))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.cri", "--serve", str(base / "podling"), str(archives[0])
        )
        undo.push_async_callback(_end, process)
        socket = base / "podling" / "run" / "cri.sock"
        async with asyncio.timeout(15):
            while not socket.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)
        sides = [
            Side(OURS, f"unix://{socket}", base / "logs"),
            Side(THEIRS, containerd.endpoint, base / "logs"),
        ]
        for side in sides:
            undo.callback(side.client.close)
            undo.push_async_callback(side.remove_pods)
        bundles = base / "podling" / "run" / "containers"
        crun = Path(shutil.which("crun") or "crun")
        samples = await measure(
            sides,
            {OURS: process.pid, THEIRS: containerd.pid},
            lambda container_id: run_bare(crun, bundles, base / "bare", container_id),
        )
    return report(samples, read_phases(base / "podling" / "log"))


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    await process.wait()


def serve(base: Path, archive: Path) -> None:
    """Our runtime alone in this process, as the agent has it, until SIGTERM."""
    import uvloop

    from podling.machine.agent import SWITCH_INTERVAL_S
    from podling.machine.node_runtime import serve_runtime

    (base / "net.d").mkdir(parents=True)
    (base / "netns").mkdir()
    install(base / "bin")
    (base / "net.d" / "10-bench.conflist").write_text(conflist("bench", "cni-pod0", "10.85.0.0/24", base))
    config = RuntimeConfig(
        root_dir=base / "root",
        run_dir=base / "run",
        image_dir=base / "images",
        cni_conf_dir=base / "net.d",
        cni_bin_dirs=(base / "bin",),
        cni_cache_dir=base / "results",
        netns_dir=base / "netns",
    )
    ImageStore(config.image_dir).import_archive(archive)
    # As the agent does it; the log is what tells the phases.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.basicConfig(filename=base / "log", format="%(message)s")
    logging.getLogger("podling.runtime.timings").setLevel(logging.DEBUG)
    uvloop.run(serve_runtime(config))


def run(_: PodlingCluster | None = None) -> Report:
    """As a program of its own, for its namespaces."""
    argv = [sys.executable, "-m", "bench.cri", "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=600)
    return msgspec.json.decode(done.stdout, type=Report)


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), Path(sys.argv[3]))
        return 0
    # Nothing here reaches the machine's network or outlives this process.
    sc.unshare(sc.CLONE_NEWNET | sc.CLONE_NEWNS)
    sc.mount("none", "/", flags=sc.MS_REC | sc.MS_PRIVATE)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if Cgroups().layout is Layout.HYBRID:
        sc.umount(str(Cgroups().unified), sc.MNT_DETACH)
    base = Path(tempfile.mkdtemp(prefix="cri-"))
    try:
        made = asyncio.run(compare(base))
    finally:
        Cgroups().kill(CGROUP)
        Cgroups().remove(CGROUP)
        for mount in reversed([m for m in read_mountinfo() if m.target.startswith(str(base))]):
            sc.umount(mount.target, sc.MNT_DETACH)
        shutil.rmtree(base)
    if "--json" in sys.argv:
        sys.stdout.buffer.write(msgspec.json.encode(made))
        return 0
    write(made)
    print(table([made]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
