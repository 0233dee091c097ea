"""Ranges of user IDs: one a pod, kept, and given back with the pod's directory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from podling.kubelet.config import KubeletConfig
from podling.kubelet.userns import LENGTH, RANGES, UserNamespaces
from podling.kubelet.volumes.manager import remove_pod_dir
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

from .builders import make_pod
from .memory_runtime import MemoryRuntime


class Capable(MemoryRuntime):
    features = cri.RuntimeHandlerFeatures(user_namespaces=True)

    async def status(self, request: cri.StatusRequest) -> cri.StatusResponse:
        handlers = [cri.RuntimeHandler(name="other"), cri.RuntimeHandler(features=self.features)]
        return cri.StatusResponse(runtime_handlers=handlers)


@pytest.fixture
def config(tmp_path: Path) -> KubeletConfig:
    return KubeletConfig(node_name="n", node_ip="10.0.0.1", root_dir=tmp_path)


def pod(uid: str = "u1"):
    return make_pod(hostUsers=False, uid=uid)


async def test_a_pod_keeps_its_range_whatever_kubelet_asks(config: KubeletConfig) -> None:
    first = await UserNamespaces(config, Capable()).of(pod())
    assert first.mode is cri.NamespaceMode.POD
    assert first.uids == first.gids
    assert (first.uids[0].container_id, first.uids[0].length) == (0, LENGTH)
    assert first.uids[0].host_id % LENGTH == 0
    assert first.uids[0].host_id >= LENGTH
    assert await UserNamespaces(config, Capable()).of(pod()) == first
    recorded = json.loads((config.pods_dir / "u1" / "userns").read_text())
    assert recorded["uidMappings"] == [{"hostId": first.uids[0].host_id, "containerId": 0, "length": LENGTH}]


async def test_ranges_differ_also_when_asked_at_once_and_come_back(
    config: KubeletConfig, monkeypatch
) -> None:
    monkeypatch.setattr("podling.kubelet.userns.RANGES", 4)
    users = UserNamespaces(config, Capable())
    given = await asyncio.gather(*(users.of(pod(f"u{i}")) for i in range(3)))
    assert sorted(u.uids[0].host_id // LENGTH for u in given) == [1, 2, 3]
    with pytest.raises(CRIError, match="could not find an empty slot") as caught:
        await users.of(pod("u3"))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    await remove_pod_dir(config, "u1")
    assert (await users.of(pod("u3"))).uids == given[1].uids


async def test_a_file_that_a_power_cut_left_is_written_anew(config: KubeletConfig) -> None:
    (config.pods_dir / "u1").mkdir(parents=True)
    (config.pods_dir / "u1" / "userns").write_text('{"uidMap')
    assert await UserNamespaces(config, Capable()).of(pod())


async def test_pods_with_the_nodes_users_need_none(config: KubeletConfig) -> None:
    assert await UserNamespaces(config, MemoryRuntime()).of(make_pod()) is None
    assert await UserNamespaces(config, MemoryRuntime()).of(make_pod(hostUsers=True)) is None


async def test_a_runtime_that_cannot_is_named(config: KubeletConfig) -> None:
    users = UserNamespaces(config, MemoryRuntime())
    with pytest.raises(CRIError, match='RuntimeClass handler "" does not support user namespaces'):
        await users.of(pod())
    assert not config.pods_dir.exists()
    assert (RANGES + 1) * LENGTH == 1 << 32
