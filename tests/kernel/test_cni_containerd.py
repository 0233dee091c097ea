"""Our plugins, as executables, below a real CNI runtime: Debian's containerd wires its pods with them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.net_local import link_names
from kernel.runtime_local import PARENT
from podling.cni.install import install
from podling.linux.netlink import Netlink
from podling.pause.build import pause_path
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.grpc_client import CRIClient
from podling.testing.containerd import Containerd, missing, write_test_images

BRIDGE, LIMIT = "cni-own0", 80_000_000  # bits a second


def network(base: Path) -> dict[str, Any]:
    ipam = {
        "type": "host-local",
        "dataDir": str(base / "ipam"),
        "ranges": [[{"subnet": "10.87.0.0/24"}], [{"subnet": "fd00:10:87::/64"}]],
    }
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": True,
    }
    return {
        "cniVersion": "1.0.0",
        "name": "own",
        "plugins": [
            bridge | {"ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "firewall"},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "123"}, "dataDir": str(base / "tuning")},
        ],
    }


@pytest.fixture(scope="module")
def base(mount_namespace: None) -> Iterator[Path]:
    if program := missing():
        pytest.skip(f"{program} is not installed")
    made = Path(tempfile.mkdtemp(prefix="cni-"))  # not tmp_path: sockets must have short paths
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def containerd(base: Path) -> Iterator[Containerd]:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox (busybox-static) is not installed")
    (base / "images").mkdir()
    images = write_test_images(base / "images", busybox, pause_path())
    install(base / "bin")
    with Containerd(base, images=images, plugins=base / "bin", network=json.dumps(network(base))) as made:
        yield made
    with Netlink() as nl:
        nl.link_del(BRIDGE, missing_ok=True)


@pytest.fixture
async def client(containerd: Containerd) -> AsyncIterator[CRIClient]:
    made = CRIClient(containerd.endpoint)
    yield made
    await remove_all(made)
    made.close()


async def remove_all(client: CRIClient) -> None:
    for item in (await client.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
        await client.stop_pod_sandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
        await client.remove_pod_sandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))


class Pod:
    """A sandbox with one container in it."""

    def __init__(self, client: CRIClient, container_id: str, ips: list[str]) -> None:
        self._client, self._container_id, self.ips = client, container_id, ips

    async def run(self, *command: str) -> str:
        request = cri.ExecSyncRequest(container_id=self._container_id, cmd=["busybox", *command], timeout=30)
        done = await self._client.exec_sync(request)
        assert done.exit_code == 0, done.stdout + done.stderr
        return done.stdout.decode()


async def start(client: CRIClient, folder: Path, name: str, **more: Any) -> Pod:
    """A pod that serves its own name on port 80."""
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        hostname=name,
        log_directory=str(folder),
        linux=cri.LinuxPodSandboxConfig(cgroup_parent=f"{PARENT}/cni-{name}"),
        **more,
    )
    request = cri.RunPodSandboxRequest(config=config)
    sandbox_id = (await client.run_pod_sandbox(request)).pod_sandbox_id
    server = f"echo {name} > /tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"
    container = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"),
        image=cri.ImageSpec(image="docker.io/library/busybox:latest"),
        command=["sh", "-c", server],
        log_path="c.log",
    )
    made = await client.create_container(
        cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=config)
    )
    await client.start_container(cri.StartContainerRequest(container_id=made.container_id))
    asked = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    shown = (await client.pod_sandbox_status(asked)).status.network
    return Pod(client, made.container_id, [shown.ip, *(more.ip for more in shown.additional_ips)])


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as reply:
        content: bytes = reply.read()
        return content


def nat_rules() -> str:
    if shutil.which("iptables-save") is None:
        return ""
    return subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout


async def test_pods_talk_to_each_other_and_nothing_is_left(
    client: CRIClient, base: Path, tmp_path: Path
) -> None:
    before = link_names()
    port = cri.PortMapping(protocol=cri.Protocol.TCP, container_port=80, host_port=18080)
    limit = {f"kubernetes.io/{way}-bandwidth": str(LIMIT) for way in ("ingress", "egress")}
    one = await start(client, tmp_path, "one", port_mappings=[port])
    two = await start(client, tmp_path, "two", annotations=limit)
    assert (one.ips, two.ips) == (["10.87.0.2", "fd00:10:87::2"], ["10.87.0.3", "fd00:10:87::3"])

    for address in one.ips:
        assert "1 packets received" in await two.run("ping", "-c", "1", "-W", "10", address)
    assert await two.run("wget", "-q", "-O", "-", "http://10.87.0.2/") == "one\n"
    # The port of the node: from the node, from localhost, from a neighbour, and from the pod itself.
    for address in ("10.87.0.1", "127.0.0.1"):
        assert await asyncio.to_thread(fetch, f"http://{address}:18080/") == b"one\n"
    for pod in (one, two):
        assert await pod.run("wget", "-q", "-O", "-", "http://10.87.0.1:18080/") == "one\n"
    assert await two.run("cat", "/proc/sys/net/core/somaxconn") == "123\n"
    assert sum(name.startswith("bwp") for name in link_names() - before) == 1

    await remove_all(client)
    assert link_names() - before - {BRIDGE} == set()
    reserved = {path.name for path in (base / "ipam" / "own").iterdir()}
    assert reserved == {"lock", "last_reserved_ip.0", "last_reserved_ip.1"}
    assert "10.87.0.2" not in nat_rules()
    assert "fd00:10:87::2" not in nat_rules()


async def test_many_at_once_get_distinct_addresses(client: CRIClient, tmp_path: Path) -> None:
    pods = await asyncio.gather(*(start(client, tmp_path / str(n), f"pod-{n}") for n in range(4)))
    assert len({ip for pod in pods for ip in pod.ips}) == 8
    for pod in pods:
        await pods[0].run("ping", "-c", "1", "-W", "10", pod.ips[0])


async def test_a_refusal_reaches_the_caller_in_our_words(client: CRIClient, tmp_path: Path) -> None:
    port = cri.PortMapping(protocol=cri.Protocol.TCP, container_port=80, host_port=18081, host_ip="nonsense")
    before = link_names()
    with pytest.raises(CRIError, match="Invalid hostIP 'nonsense'"):
        await start(client, tmp_path, "bad", port_mappings=[port])
    await remove_all(client)
    assert link_names() - before - {BRIDGE} == set()
