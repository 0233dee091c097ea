"""Restarts: what lives goes on, what ended is known, what was half-made is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel.runtime_local import PARENT, Local, make_config, running
from podling.linux import mounts
from podling.linux.processes import start_time
from podling.runtime.config import RuntimeConfig
from podling.runtime.cri import messages as cri
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


async def test_unreadable_record_is_removed(local: Local) -> None:
    sandbox_id = await local.sandbox()
    path = local.config.root_dir / "sandboxes" / f"{sandbox_id}.json"
    complete = path.read_bytes()
    path.write_bytes(complete[:40])
    await local.restart()
    assert (await local.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items == []
    # Its cgroup and pause are not in the record any more; crun's own state has led to them.
    assert local.leftovers() == []


AGENT = """
import asyncio, os, sys
from pathlib import Path
from podling.runtime.server import Runtime
from podling.runtime.cri import messages as cri
from kernel.runtime_local import Local, make_config

async def main(base, images):
    config = make_config(base, images)
    runtime = Runtime(config)
    await runtime.start()
    local = Local(config, runtime, base / "logs")
    print("ready", flush=True)
    while True:
        async def pod():
            sandbox_id = await local.sandbox()
            await local.run(sandbox_id, "sleep", "4714")
            return sandbox_id
        ids = await asyncio.gather(*(pod() for _ in range(3)))
        await asyncio.gather(*(local.remove_sandbox(i) for i in ids))

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize("delay_ms", [3, 11, 19, 31, 47, 68, 95, 140])
async def test_killed_at_any_moment(local: Local, image_dir: Path, tmp_path: Path, delay_ms: int) -> None:
    base = tmp_path / "agent"
    base.mkdir()
    (base / "results").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    agent = subprocess.Popen(  # noqa: ASYNC220 - the victim
        [sys.executable, "-c", AGENT, base, image_dir], env=environment, stdout=subprocess.PIPE
    )
    await asyncio.to_thread(agent.stdout.readline)
    await asyncio.sleep(delay_ms / 1000)
    agent.kill()
    await asyncio.to_thread(agent.wait)
    agent.stdout.close()
    config = RuntimeConfig(
        root_dir=base / "root",
        run_dir=base / "run",
        image_dir=image_dir,
        cni_conf_dir=base / "net.d",
        cni_bin_dirs=(base / "bin",),
        cni_cache_dir=base / "results",
        netns_dir=base / "netns",
    )
    other = Local(config, local.runtime, base / "logs")
    await other.restart(stop=False)
    for item in (await other.runtime.list_pod_sandbox(cri.ListPodSandboxRequest())).items:
        await other.remove_sandbox(item.id)
    await other.runtime.stop()
    assert other.leftovers() == []
    alive = [pid for pid in running("sleep 4714") if start_time(pid) is not None]
    assert alive == []


assert make_config  # used by the agent
