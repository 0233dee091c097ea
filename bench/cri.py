"""`python -m bench.cri`: our CRI and containerd's, side by side, through the same client.

Both run here, in namespaces of their own, on the same images from the same archives, without Kubernetes
above them: RunPodSandbox + CreateContainer + StartContainer one at a time and many at once, an exec, and
the memory a pod adds. They take turns, so a busy moment of the machine meets both.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

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
from podling.testing.containerd import Containerd, conflist, missing, write_test_images

RUNS = 20
AT_ONCE = 20
IMAGE = "docker.io/library/busybox:latest"
CGROUP = "/podling-bench-cri"
"""Above those of the pods of both."""


class Side:
    """One of the two runtimes."""

    def __init__(self, name: str, endpoint: str, logs: Path) -> None:
        self.name = name
        self.client = CRIClient(endpoint)
        self._logs = logs
        self._made = 0

    async def start_pod(self) -> tuple[str, str]:
        """Sandbox and container ids."""
        self._made += 1
        uid = f"{self.name}-{self._made}"
        modes = cri.NamespaceOption(pid=cri.NamespaceMode.CONTAINER)
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=uid, uid=uid, namespace="bench"),
            hostname=uid,
            log_directory=str(self._logs / uid),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=f"{CGROUP}/{uid}",
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=modes),
            ),
        )
        container = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=IMAGE),
            command=["sleep", "100000"],
            log_path="main.log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=modes)
            ),
        )
        sandbox = (await self.client.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))).pod_sandbox_id
        made = await self.client.create_container(
            cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=container, sandbox_config=config)
        )
        await self.client.start_container(cri.StartContainerRequest(container_id=made.container_id))
        return sandbox, made.container_id

    async def exec(self, container_id: str) -> None:
        request = cri.ExecSyncRequest(container_id=container_id, cmd=["true"])
        assert (await self.client.exec_sync(request)).exit_code == 0

    async def remove_pods(self) -> None:
        for item in (await self.client.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
            await self.client.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
            await self.client.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))


class Samples(dict[str, list[float]]):
    def add(self, name: str, value: float) -> None:
        self.setdefault(name, []).append(value)


async def measure(sides: list[Side], daemons: dict[str, int]) -> Samples:
    samples = Samples()
    for run in range(RUNS + 2):
        for side in sides:
            began = time.perf_counter()
            _, container_id = await side.start_pod()
            took = time.perf_counter() - began
            exec_took = await _timed(lambda side=side, c=container_id: side.exec(c))
            if run >= 2:  # the first ones warm caches
                samples.add(f"start {side.name}", took * 1000)
                samples.add(f"exec {side.name}", exec_took * 1000)
            await side.remove_pods()
    for _ in range(2):
        for side in sides:
            before = _memory_kib(daemons[side.name])
            took = await _timed(lambda side=side: asyncio.gather(*(side.start_pod() for _ in range(AT_ONCE))))
            samples.add(f"rate {side.name}", AT_ONCE / took)
            samples.add(f"memory {side.name}", (_memory_kib(daemons[side.name]) - before) / AT_ONCE)
            await side.remove_pods()
    return samples


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


def report(samples: Samples) -> Report:
    ours, theirs = "podling", "containerd"
    names = {"start": "ms", "exec": "ms", "rate": "pods/s", "memory": "KiB"}
    texts = {
        "start": "RunPodSandbox + CreateContainer + StartContainer",
        "exec": "ExecSync of true",
        "rate": f"{AT_ONCE} pods at once",
        "memory": "memory a pod",
    }
    metrics = []
    for key, unit in names.items():
        other = Metric(name=f"{texts[key]}, {theirs}", unit=unit, samples=tuple(samples[f"{key} {theirs}"]))
        goal = {"start": 0.5, "exec": 1.0, "rate": 2.0, "memory": 0.25}[key] * other.value
        own = Metric(
            name=f"{texts[key]}, {ours}",
            unit=unit,
            samples=tuple(samples[f"{key} {ours}"]),
            goal=round(goal, 1),
            at_least=key == "rate",
        )
        metrics += [own, other]
    note = (
        "goals are of containerd's figure in this run: start half, exec equal, rate twice, memory a quarter"
    )
    return Report(scenario="cri", metrics=tuple(metrics), notes=(note,))


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
            Side("podling", f"unix://{socket}", base / "logs"),
            Side("containerd", containerd.endpoint, base / "logs"),
        ]
        for side in sides:
            undo.callback(side.client.close)
            undo.push_async_callback(side.remove_pods)
        samples = await measure(sides, {"podling": process.pid, "containerd": containerd.pid})
    return report(samples)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    await process.wait()


def serve(base: Path, archive: Path) -> None:
    """Our runtime alone in this process, as the agent has it, until SIGTERM."""
    import uvloop

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
    uvloop.run(serve_runtime(config))


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
    write(made)
    print(table([made]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
