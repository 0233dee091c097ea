"""A runtime of our own for a test: real crun, conmon, CNI and images, everything below one temporary folder.

The mounts live in a mount namespace that ends with the test module; in it the unused cgroup v2 hierarchy of
a hybrid machine is unmounted, as in a node.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podling.cni.install import install
from podling.linux import syscalls as sc
from podling.linux.cgroups import Cgroups
from podling.linux.mounts import read_mountinfo
from podling.runtime.config import RuntimeConfig
from podling.runtime.cri import messages as cri
from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.store import ImageStore
from podling.runtime.server import Runtime

CLONE_FS = 0x200
PARENT = os.environ.setdefault("PODLING_TEST_CGROUP", f"/podling-runtime-{os.getpid()}")
"""Of all cgroups made here; agents that tests start as programs use the same."""
IMAGE = "busybox"
APPLETS = "sh sleep ps cat echo true false id ls grep hostname env kill nc netstat tr stty head dd mount test"


@pytest.fixture(scope="module")
def mount_namespace() -> Iterator[None]:
    if shutil.which("crun") is None or shutil.which("conmon") is None:
        pytest.skip("crun or conmon is not installed")
    before, folder = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.getcwd()
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount("none", "/", flags=sc.MS_REC | sc.MS_PRIVATE)
    if Cgroups().layout == "hybrid":
        sc.umount(str(Cgroups().unified), sc.MNT_DETACH)
    yield
    Cgroups().kill(PARENT)
    Cgroups().remove(PARENT)
    # A thread that shares its file system state cannot change mount namespaces (`man 2 setns`).
    sc.unshare(CLONE_FS)
    sc.setns(before, sc.CLONE_NEWNS)
    os.chdir(folder)
    os.close(before)


@pytest.fixture(scope="module")
def image_dir(mount_namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one image, made of the machine's static busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox (busybox-static) is not installed")
    work = tmp_path_factory.mktemp("image")
    root = work / "rootfs"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "work"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/work:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:1001:\nextra:x:2000:web\n")
    (root / "bin" / "plain").write_text("not a program")
    with tarfile.open(work / "rootfs.tar", "w") as tar:
        tar.add(root, arcname=".")
    store = ImageStore(work / "images")
    config = RunConfig(cmd=["/bin/sh"], env=["FROM_IMAGE=yes", "OVERRIDE=image"], working_dir="/work")
    import_rootfs(store, work / "rootfs.tar", IMAGE, config=config)
    return work / "images"


@dataclass
class Local:
    """The runtime under test and short ways to ask it."""

    config: RuntimeConfig
    runtime: Runtime
    logs: Path
    uids: int = 0
    sandboxes: dict[str, cri.PodSandboxConfig] = field(default_factory=dict)

    async def restart(self, *, stop: bool = True) -> None:
        """As after an agent's end; without `stop` nothing of the old one is told, as with kill -9."""
        if stop:
            await self.runtime.stop()
        self.runtime = Runtime(self.config)
        await self.runtime.start()

    def sandbox_config(self, name: str = "pod", **options: cri.NamespaceMode) -> cri.PodSandboxConfig:
        self.uids += 1
        modes = {"pid": cri.NamespaceMode.CONTAINER} | options
        context = cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(**modes))
        uid = f"uid-{self.uids}"
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace="default"),
            hostname=name,
            log_directory=str(self.logs / uid),
            dns_config=cri.DNSConfig(servers=["10.96.0.10"], searches=["svc.local"], options=["ndots:5"]),
            labels={"io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid},
            linux=cri.LinuxPodSandboxConfig(cgroup_parent=f"{PARENT}/pod{uid}", security_context=context),
        )

    async def sandbox(self, config: cri.PodSandboxConfig | None = None) -> str:
        config = config or self.sandbox_config()
        made = await self.runtime.run_pod_sandbox(cri.RunPodSandboxRequest(config=config))
        self.sandboxes[made.pod_sandbox_id] = config
        return made.pod_sandbox_id

    async def create(
        self, sandbox_id: str, *command: str, change: Callable[[cri.ContainerConfig], None] | None = None
    ) -> str:
        existing = len((await self.runtime.list_containers(cri.ListContainersRequest())).containers)
        options = self.sandboxes[sandbox_id].linux.security_context.namespace_options
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=f"c{existing}"),
            image=cri.ImageSpec(image=IMAGE),
            command=list(command),
            log_path=f"c{existing}/0.log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=options)
            ),
        )
        if change is not None:
            change(config)
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
        return (await self.runtime.create_container(request)).container_id

    async def start(self, container_id: str) -> str:
        await self.runtime.start_container(cri.StartContainerRequest(container_id=container_id))
        return container_id

    async def run(self, sandbox_id: str, *command: str, change=None) -> str:
        return await self.start(await self.create(sandbox_id, *command, change=change))

    async def status(self, container_id: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self.runtime.container_status(request)).status

    async def sandbox_status(self, sandbox_id: str) -> cri.PodSandboxStatus:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return (await self.runtime.pod_sandbox_status(request)).status

    async def exited(self, container_id: str, within_s: float = 10.0) -> cri.ContainerStatus:
        async with asyncio.timeout(within_s):
            await self.runtime.core.container(container_id).ended.wait()
        return await self.status(container_id)

    async def output(self, sandbox_id: str, *command: str, change=None) -> str:
        """Run to the end and return what it said, without the log format."""
        container_id = await self.run(sandbox_id, *command, change=change)
        status = await self.exited(container_id)
        return log_text(Path(status.log_path))

    async def exec(self, container_id: str, *command: str, timeout: int = 10) -> cri.ExecSyncResponse:
        request = cri.ExecSyncRequest(container_id=container_id, cmd=list(command), timeout=timeout)
        return await self.runtime.exec_sync(request)

    async def stop(self, container_id: str, timeout: int = 0) -> None:
        await self.runtime.stop_container(
            cri.StopContainerRequest(container_id=container_id, timeout=timeout)
        )

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.runtime.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        await self.runtime.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

    def leftovers(self) -> list[str]:
        """Everything of ours that is still on the machine, apart from logs."""
        root, run = self.config.root_dir, self.config.run_dir
        found = [str(path) for path in (root / "sandboxes").iterdir()]
        for folder in (
            root / "containers",
            run / "sandboxes",
            run / "containers",
            run / "crun",
            run / "exits",
        ):
            found += [str(path) for path in folder.iterdir()]
        found += [m.target for m in read_mountinfo() if m.target.startswith(str(root.parent))]
        found += [str(path) for path in self.config.netns_dir.iterdir()]
        found += [str(path) for path in self.config.cni_cache_dir.rglob("*") if path.is_file()]
        found += [f"cgroup {name}" for name in pods_with_children()]
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        found += [line for line in links.splitlines() if "veth" in line]
        return found


def pods_with_children() -> list[str]:
    cgroups = Cgroups()
    return [pod for pod in cgroups.children(PARENT) if cgroups.children(f"{PARENT}/{pod}")]


def log_text(path: Path) -> str:
    """The messages of a CRI log: `TIME STREAM TAG MESSAGE`; after the tag P the line goes on."""
    parts = [line.split(" ", 3)[2:] for line in path.read_text().splitlines()]
    return "".join(text if tag == "P" else f"{text}\n" for tag, text in parts).removesuffix("\n")


def running(command: str) -> list[int]:
    """PIDs of processes whose command line holds the text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if command in line:
                found.append(int(entry.name))
    return found


def make_config(base: Path, image_dir: Path, subnet: str = "10.85.0.0/24") -> RuntimeConfig:
    conf = base / "net.d"
    conf.mkdir()
    ipam = {"type": "host-local", "dataDir": str(base / "ipam"), "ranges": [[{"subnet": subnet}]]}
    bridge = {"type": "bridge", "bridge": "cni-test0", "isDefaultGateway": True, "ipam": ipam}
    text = json.dumps({"cniVersion": "1.0.0", "name": "test", "plugins": [bridge]})
    (conf / "10-test.conflist").write_text(text)
    (base / "netns").mkdir()
    install(base / "bin")
    return RuntimeConfig(
        root_dir=base / "root",
        run_dir=base / "run",
        image_dir=image_dir,
        cni_conf_dir=conf,
        cni_bin_dirs=(base / "bin",),
        cni_cache_dir=base / "results",
        netns_dir=base / "netns",
    )


@pytest.fixture
async def local(image_dir: Path) -> AsyncIterator[Local]:
    # Not tmp_path: sockets below it must have short paths.
    base = Path(tempfile.mkdtemp(prefix="pr-"))
    base.chmod(0o711)  # root of a user namespace must get to what is below
    config = make_config(base, image_dir)
    config.cni_cache_dir.mkdir()
    runtime = Runtime(config)
    await runtime.start()
    made = Local(config, runtime, base / "logs")
    try:
        yield made
        for item in (await made.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
            await made.remove_sandbox(item.id)
        assert made.leftovers() == []
    finally:
        await made.runtime.stop()
        clean = subprocess.run  # short, and nothing else runs on the loop any more
        clean(["ip", "link", "del", "cni-test0"], capture_output=True, check=False)
        for mount in reversed([m for m in read_mountinfo() if m.target.startswith(str(base))]):
            sc.umount(mount.target, sc.MNT_DETACH)
        shutil.rmtree(base)
