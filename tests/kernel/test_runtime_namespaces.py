"""Namespaces a container may choose, ports of the node, working directories, stop signals, annotations."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from kernel.runtime_local import Local
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

TARGET = cri.NamespaceMode.TARGET
POD = cri.NamespaceMode.POD


def ns(local: Local, container_id: str, kind: str) -> str:
    pid = local.runtime.core.container(container_id).record.process.pid
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def targeting(container_id: str):
    def change(config: cri.ContainerConfig) -> None:
        config.linux.security_context.namespace_options = cri.NamespaceOption(
            pid=TARGET, target_id=container_id
        )

    return change


async def test_a_debugger_sees_its_targets_processes(local: Local) -> None:
    sandbox_id = await local.sandbox()
    target = await local.run(sandbox_id, "sleep", "4711")
    debugger = await local.run(sandbox_id, "sleep", "1000", change=targeting(target))
    assert ns(local, debugger, "pid") == ns(local, target, "pid")
    assert ns(local, debugger, "mnt") != ns(local, target, "mnt")
    assert b"sleep 4711" in (await local.exec(debugger, "ps", "-o", "args")).stdout
    await local.stop(debugger)
    assert (await local.status(target)).state is cri.ContainerState.CONTAINER_RUNNING


async def test_targets_that_cannot_be(local: Local) -> None:
    sandbox_id, other = await local.sandbox(), await local.sandbox(local.sandbox_config("other"))
    stranger = await local.run(other, "sleep", "1000")
    ended = await local.run(sandbox_id, "true")
    await local.exited(ended)
    for target, code, text in (
        ("0123456789abcdef", Code.NOT_FOUND, "0123456789abcdef"),
        (stranger, Code.INVALID_ARGUMENT, "is not in sandbox"),
        (ended, Code.FAILED_PRECONDITION, "is not running"),
    ):
        with pytest.raises(CRIError, match=text) as caught:
            await local.create(sandbox_id, "true", change=targeting(target))
        assert caught.value.code is code
        assert target in caught.value.message


async def test_ports_of_the_node_lead_to_the_pod(local: Local) -> None:
    conf = local.config.cni_conf_dir / "10-test.conflist"
    document = json.loads(conf.read_text())
    document["plugins"].append(
        {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    )
    conf.write_text(json.dumps(document))
    await local.restart()
    config = local.sandbox_config()
    config.port_mappings = [cri.PortMapping(container_port=80, host_port=18080)]
    sandbox_id = await local.sandbox(config)
    await local.run(sandbox_id, "sh", "-c", "while :; do echo from the pod | nc -l -p 80; done")

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("10.85.0.1", 18080)
        try:
            return await reader.read()
        finally:
            writer.close()

    async with asyncio.timeout(20):
        while True:
            try:
                said = await ask()
            except OSError:
                said = b""
            if said:
                break
            await asyncio.sleep(0.05)
    assert said == b"from the pod\n"
    await local.remove_sandbox(sandbox_id)
    with pytest.raises(ConnectionRefusedError):
        await ask()


async def test_a_working_directory_is_made(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.working_dir = "/made/for/me"

    assert await local.output(await local.sandbox(), "sh", "-c", "pwd", change=change) == "/made/for/me"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (cri.Signal.RUNTIME_DEFAULT, cri.Signal.SIGTERM),
        (cri.Signal.SIGUSR1, cri.Signal.SIGUSR1),
        (cri.Signal.SIGRTMINPLUS3, cri.Signal.SIGRTMINPLUS3),
        (cri.Signal.SIGRTMAX, cri.Signal.SIGRTMAX),
    ],
)
async def test_the_stop_signal_is_told_and_sent(local: Local, wanted: cri.Signal, told: cri.Signal) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.stop_signal = wanted

    sandbox_id = await local.sandbox(local.sandbox_config(pid=POD))
    container_id = await local.run(sandbox_id, "sleep", "1000", change=change)
    assert (await local.status(container_id)).stop_signal is told
    await local.stop(container_id, timeout=30)
    number = {"SIGTERM": 15, "SIGUSR1": 10, "SIGRTMINPLUS3": 37, "SIGRTMAX": 64}[told.name]
    assert (await local.status(container_id)).exit_code == 128 + number


async def test_labels_and_annotations_come_back(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.labels, config.annotations = {"a": "1"}, {"b": "ü" * 300}

    config = local.sandbox_config()
    config.annotations = {"example.org/x": "y"}
    sandbox_id = await local.sandbox(config)
    assert (await local.sandbox_status(sandbox_id)).annotations == {"example.org/x": "y"}
    status = await local.status(await local.create(sandbox_id, "true", change=change))
    assert (status.labels, status.annotations) == ({"a": "1"}, {"b": "ü" * 300})


@pytest.mark.parametrize("key", ["", "A=B", "A\0B"])
async def test_variables_that_cannot_be(local: Local, key: str) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.envs = [cri.KeyValue(key=key, value=b"x")]

    with pytest.raises(CRIError, match="invalid environment variable") as caught:
        await local.create(await local.sandbox(), "true", change=change)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_bytes_of_a_variable_arrive_as_they_are(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.envs = [cri.KeyValue(key="RAW", value="a=b\nc d é".encode())]

    said = await local.output(await local.sandbox(), "sh", "-c", 'echo "$RAW"', change=change)
    assert said == "a=b\nc d é"


async def test_what_the_log_directory_lacks_is_made(local: Local) -> None:
    status = await local.exited(await local.run(await local.sandbox(), "echo", "hello"))
    assert Path(status.log_path).read_text().endswith(" stdout F hello\n")
