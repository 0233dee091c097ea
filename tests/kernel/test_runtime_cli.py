"""`podling ps`, `inspect` and `logs` beside a running runtime."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys

import pytest

from kernel.runtime_local import Local
from kernel.test_runtime_container import until_logged
from podling.runtime.cri import messages as cri


async def podling(local: Local, *arguments: str) -> tuple[int, str, str]:
    command, *rest = arguments
    dirs = (f"--root-dir={local.config.root_dir}", f"--run-dir={local.config.run_dir}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "podling.cli", command, *dirs, *rest),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def pod(local: Local) -> tuple[str, str, str]:
    """A sandbox, a running container and one that has ended."""
    sandbox_id = await local.sandbox(local.sandbox_config("web"))
    running = await local.run(sandbox_id, "sh", "-c", "echo one; echo two >&2; sleep 1000")
    ended = await local.run(sandbox_id, "sh", "-c", "exit 3")
    await local.exited(ended)
    await until_logged(local, running, "two")
    return sandbox_id, running, ended


async def test_ps_looks_like_dockers(local: Local, pod: tuple[str, str, str]) -> None:
    sandbox_id, running, ended = pod
    code, out, _ = await podling(local, "ps")
    header, *lines = out.splitlines()
    assert code == 0
    assert header.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert [line.split()[0] for line in lines] == [running[:12], sandbox_id[:12]]
    assert lines[0].endswith("k8s_c0_web_default_uid-1_0")
    assert lines[1].endswith("k8s_POD_web_default_uid-1_0")
    assert '"/pause"' in lines[1]
    assert " Up " in lines[0]
    _, out, _ = await podling(local, "ps", "-a", "-q", "--no-trunc")
    assert out.split() == [ended, running, sandbox_id]
    _, out, _ = await podling(local, "ps", "-a")
    assert "Exited (3) " in out


async def test_inspect_shows_the_shared_network(local: Local, pod: tuple[str, str, str]) -> None:
    sandbox_id, running, ended = pod
    code, out, _ = await podling(local, "inspect", running[:12], "k8s_POD_web_default_uid-1_0", ended)
    assert code == 0
    container, pause, dead = json.loads(out)
    assert container["Id"] == running
    assert container["State"]["Running"] is True
    assert container["State"]["Pid"] == local.runtime.core.container(running).record.process.pid
    assert container["HostConfig"]["NetworkMode"] == f"container:{sandbox_id}"
    assert container["HostConfig"]["IpcMode"] == f"container:{sandbox_id}"
    assert container["HostConfig"]["PidMode"] == ""
    assert container["NetworkSettings"]["IPAddress"] == "10.85.0.2"
    assert container["Path"] == "sh"
    assert "FROM_IMAGE=yes" in container["Config"]["Env"]
    assert pause["Id"] == sandbox_id
    assert pause["Path"] == "/pause"
    assert pause["Created"] < container["Created"]
    assert dead["State"] | {"StartedAt": "", "FinishedAt": ""} == {
        "Status": "exited",
        "Running": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 0,
        "ExitCode": 3,
        "Error": "",
        "StartedAt": "",
        "FinishedAt": "",
    }


async def test_inspect_of_nothing(local: Local) -> None:
    assert await podling(local, "inspect", "nope") == (1, "[]\n", "Error: No such object: nope\n")


async def test_logs_keep_the_streams_apart(local: Local, pod: tuple[str, str, str]) -> None:
    assert await podling(local, "logs", pod[1]) == (0, "one\n", "two\n")
    assert await podling(local, "logs", "--tail", "1", pod[1]) == (0, "", "two\n")
    code, _, err = await podling(local, "logs", pod[0])
    assert code == 1
    assert "pause container" in err
    code, _, err = await podling(local, "logs", "nope")
    assert (code, err) == (1, "Error: No such container: nope\n")


async def test_logs_follow_until_the_end_and_through_a_rotation(local: Local) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.1; done"
    container_id = await local.run(await local.sandbox(), "sh", "-c", script)
    await until_logged(local, container_id, "line 1")
    following = asyncio.create_task(podling(local, "logs", "-f", container_id))
    await until_logged(local, container_id, "line 3")
    path = (await local.status(container_id)).log_path
    os.rename(path, f"{path}.1")
    await local.runtime.reopen_container_log(cri.ReopenContainerLogRequest(container_id=container_id))
    async with asyncio.timeout(20):
        code, out, _ = await following
    assert code == 0
    # The command starts at some line of the eight; from there on none is missing or doubled.
    shown = out.splitlines()
    assert shown == [f"line {i}" for i in range(9 - len(shown), 9)]


async def test_states_are_the_kernels_without_an_agent(local: Local, pod: tuple[str, str, str]) -> None:
    _, running, _ = pod
    pid = local.runtime.core.container(running).record.process.pid
    await local.runtime.stop()
    os.kill(pid, signal.SIGKILL)
    while not (local.config.run_dir / "exits" / running).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    _, out, _ = await podling(local, "ps", "-a")
    # However slow the machine is: how long ago is up to it.
    assert re.search(r"Exited \(137\) (Less than a second|\d+ seconds?) ago", out)
    await local.restart(stop=False)
