"""Restarts: what lives goes on, what ended is known, what was half-made is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from kernel.runtime_local import PARENT, Local, running
from podling.linux import mounts
from podling.linux.processes import start_time
from podling.runtime.cri import messages as cri
from podling.runtime.images.errors import ImageInUseError
from podling.runtime.images.store import ImageStore
from podling.runtime.names import new_id

EXITED, RUNNING = cri.ContainerState.CONTAINER_EXITED, cri.ContainerState.CONTAINER_RUNNING


async def test_sandboxes_and_containers_live_on(local: Local) -> None:
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sleep", "1000")
    before = await local.status(container_id), await local.sandbox_status(sandbox_id)
    await local.restart()
    assert (await local.status(container_id), await local.sandbox_status(sandbox_id)) == before
    assert (await local.exec(container_id, "echo", "hi")).stdout == b"hi\n"
    await local.stop(container_id)
    assert (await local.status(container_id)).exit_code == 137


async def test_while_away_the_images_of_what_runs_are_held(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sleep", "1000")
    core = local.runtime.core
    image_id = core.container(container_id).record.image_id
    await local.runtime.stop()
    core.containers[container_id].release()  # what is left is what a killed agent leaves: conmon
    with pytest.raises(ImageInUseError, match="image is being used by a container"):
        ImageStore(local.config.image_dir).remove(image_id, force=True)
    await local.restart(stop=False)
    assert (await local.exec(container_id, "echo", "hi")).stdout == b"hi\n"


async def test_exit_while_away_has_its_code_and_time(local: Local) -> None:
    container_id = await local.run(await local.sandbox(), "sh", "-c", "sleep 0.2; exit 5")
    exit_file = local.config.run_dir / "exits" / container_id
    await local.runtime.stop()
    while not exit_file.exists():  # noqa: ASYNC110 - conmon writes it
        await asyncio.sleep(0.01)
    ended = time.time_ns()
    await asyncio.sleep(0.3)
    await local.restart(stop=False)
    status = await local.exited(container_id)
    assert (status.state, status.exit_code) == (EXITED, 5)
    assert abs(status.finished_at - ended) < 0.2e9


async def test_pause_killed_while_away(local: Local) -> None:
    sandbox_id = await local.sandbox()
    pid = local.runtime.core.sandbox(sandbox_id).pause.pid
    await local.runtime.stop()
    os.kill(pid, signal.SIGKILL)
    while start_time(pid) is not None:  # noqa: ASYNC110 - the kernel takes its time
        await asyncio.sleep(0.001)
    await local.restart(stop=False)
    assert (await local.sandbox_status(sandbox_id)).state is cri.PodSandboxState.SANDBOX_NOTREADY


async def test_half_made_things_are_removed(local: Local) -> None:
    """Every step of a creation that died after its first record."""
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sleep", "4713")
    core = local.runtime.core
    core.records.drop_sandbox(sandbox_id)
    stray = core.paths.containers / new_id() / "rootfs"
    stray.mkdir(parents=True)
    mounts.mount_tmpfs(stray, size_bytes=4096)
    (core.paths.exits / new_id()).write_text("0")
    await local.restart()
    assert (await local.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items == []
    assert (await local.runtime.list_containers(cri.ListContainersRequest())).containers == []
    assert local.leftovers() == []
    assert running("sleep 4713") == []
    assert container_id not in core.cgroups.children(f"{PARENT}/poduid-1")


async def test_addresses_that_no_sandbox_has_are_free_again(local: Local) -> None:
    """CNI GC. Who else uses the network and the cache keeps what it has."""
    (path,) = local.config.cni_conf_dir.iterdir()
    conf = json.loads(path.read_text()) | {"cniVersion": "1.1.0"}
    path.write_text(json.dumps(conf))
    sandbox_id = await local.sandbox()
    ip = (await local.sandbox_status(sandbox_id)).network.ip
    leases = Path(conf["plugins"][0]["ipam"]["dataDir"]) / "test"
    (leases / "10.85.0.99").write_text("gone\r\neth0")
    cached = json.loads((local.config.cni_cache_dir / f"test-{sandbox_id}-eth0").read_text())
    foreign = cached | {"containerId": "foreign", "netns": "/run/netns/foreign"}
    foreign_path = local.config.cni_cache_dir / "test-foreign-eth0"
    foreign_path.write_text(json.dumps(foreign))
    (leases / "10.85.0.98").write_text("foreign\r\neth0")
    await local.restart()
    reserved = {lease.name for lease in leases.iterdir()} - {"lock", "last_reserved_ip.0"}
    assert reserved == {ip, "10.85.0.98"}
    assert foreign_path.exists()
    foreign_path.unlink()
    (leases / "10.85.0.98").unlink()


async def test_unreadable_record_is_removed(local: Local) -> None:
    sandbox_id = await local.sandbox()
    path = local.config.root_dir / "sandboxes" / f"{sandbox_id}.json"
    complete = path.read_bytes()
    path.write_bytes(complete[:40])
    await local.restart()
    assert (await local.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items == []
    # Its cgroup and pause are not in the record any more; crun's own state has led to them.
    assert local.leftovers() == []


async def test_an_exec_that_is_waited_for_goes_on(local: Local) -> None:
    """It is another process's, the command line's; what died with the runtime is ended: `kill_anywhere`."""
    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sleep", "1000")
    await local.create(sandbox_id, "true")  # one that may have been starting: helpers are looked for
    waiting = asyncio.create_task(local.exec(container_id, "sh", "-c", "touch /begun; sleep 1; echo done"))
    begun = local.runtime.core.paths.rootfs(container_id) / "begun"
    while not begun.exists():  # noqa: ASYNC110 - the container makes it
        await asyncio.sleep(0.01)
    other = local.runtime
    await local.restart(stop=False)
    assert (await waiting).stdout == b"done\n"
    await other.stop()
