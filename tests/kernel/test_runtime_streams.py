"""Exec, attach and ports, through the interface of the streaming server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kernel.runtime_local import Local, running
from kernel.test_runtime_container import until_logged
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

ALL = {"tty": False, "stdin": True, "stdout": True, "stderr": True}
TTY = {"tty": True, "stdin": True, "stdout": True, "stderr": False}


@pytest.fixture
async def container(local: Local) -> str:
    return await local.run(await local.sandbox(), "sleep", "1000")


async def test_exec_sync_returns_output_and_code(local: Local, container: str) -> None:
    done = await local.exec(container, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 9)


async def test_exec_has_the_containers_rights_and_filter(local: Local, container: str) -> None:
    done = await local.exec(container, "grep", "-E", "^(CapEff|Seccomp):", "/proc/self/status")
    assert done.stdout == b"CapEff:\t00000000a80425fb\nSeccomp:\t2\n"


async def test_exec_sync_kills_at_the_timeout(local: Local, container: str) -> None:
    start = time.monotonic()
    with pytest.raises(CRIError) as caught:
        await local.exec(container, "sleep", "4711", timeout=1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 3
    async with asyncio.timeout(5):
        while running("sleep 4711"):  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.01)


async def test_exec_does_not_wait_for_a_child_that_keeps_the_streams(local: Local, container: str) -> None:
    start = time.monotonic()
    done = await local.exec(container, "sh", "-c", "sleep 5 & echo started")
    assert done.stdout == b"started\n"
    assert time.monotonic() - start < 3


async def test_exec_of_a_missing_command_names_it(local: Local, container: str) -> None:
    text = 'exec: "nope": executable file not found in \\$PATH'
    with pytest.raises(CRIError, match=text):
        await local.exec(container, "nope")
    with pytest.raises(CRIError, match=text):
        await local.runtime.streams.open_exec(container, ["nope"], **ALL)


async def test_exec_needs_a_running_container(local: Local, container: str) -> None:
    await local.stop(container)
    with pytest.raises(CRIError) as caught:
        await local.exec(container, "true")
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_exec_passes_streams_both_ways(local: Local, container: str) -> None:
    process = await local.runtime.streams.open_exec(container, ["cat"], **ALL)
    data = bytes(range(256)) * 4096  # more than any pipe holds
    writing = asyncio.create_task(process.write_stdin(data))
    assert await process.stdout.readexactly(len(data)) == data
    await writing
    await process.close_stdin()
    assert await process.wait() == 0
    assert await process.stdout.read() == await process.stderr.read() == b""
    await process.detach()


async def test_exec_output_is_complete_when_it_ended(local: Local, container: str) -> None:
    process = await local.runtime.streams.open_exec(
        container, ["sh", "-c", "echo out; echo err >&2; exit 4"], **ALL
    )
    assert await process.wait() == 4
    assert await process.stdout.read() == b"out\n"
    assert await process.stderr.read() == b"err\n"


async def test_exec_with_a_terminal(local: Local, container: str) -> None:
    process = await local.runtime.streams.open_exec(container, ["sh"], **TTY)
    assert process.stderr is None
    process.resize(width=101, height=42)
    await process.write_stdin(b"stty size; tty -s; echo $TERM; exit 6\n")
    assert await process.wait() == 6
    said = await process.stdout.read()
    assert b"42 101" in said
    assert b"xterm" in said
    assert list(local.config.run_dir.glob("tty-*")) == []


async def test_detach_ends_an_exec(local: Local, container: str) -> None:
    for options in (ALL, TTY):
        process = await local.runtime.streams.open_exec(container, ["sleep", "4712"], **options)
        while not running("sleep 4712"):  # noqa: ASYNC110 - another process starts
            await asyncio.sleep(0.005)
        await process.detach()
        assert [pid for pid in running("sleep 4712") if comm(pid) != "crun"] == []


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def test_attach_reads_and_writes(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.stdin = config.stdin_once = True

    sandbox_id = await local.sandbox()
    container_id = await local.run(sandbox_id, "sh", "-c", "cat; echo end >&2; exit 2", change=change)
    attached = await local.runtime.streams.open_attach(container_id, **ALL)
    await attached.write_stdin(b"hello\n")
    assert await attached.stdout.readline() == b"hello\n"
    await attached.close_stdin()
    assert await attached.stderr.readline() == b"end\n"
    assert await attached.wait() == 2
    assert await attached.stdout.read() == b""
    await attached.detach()


async def test_attach_to_a_terminal_resizes_it(local: Local) -> None:
    def change(config: cri.ContainerConfig) -> None:
        config.tty = config.stdin = True

    container_id = await local.run(await local.sandbox(), "sh", change=change)
    attached = await local.runtime.streams.open_attach(container_id, **TTY)
    attached.resize(width=99, height=33)
    size = b""
    async with asyncio.timeout(10):
        while b"33 99" not in size:  # conmon reads the size and our line from two files
            await attached.write_stdin(b"stty size\n")
            size = await attached.stdout.read(4096)
    await attached.detach()
    assert (await local.status(container_id)).state is cri.ContainerState.CONTAINER_RUNNING


async def test_port_of_a_pod(local: Local) -> None:
    sandbox_id = await local.sandbox()
    script = "echo ready; nc -l -p 8080 -e cat"
    container_id = await local.run(sandbox_id, "sh", "-c", script)
    await until_logged(local, container_id, "ready")
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await local.runtime.streams.open_port(sandbox_id, 8080)
                break
            except CRIError:
                await asyncio.sleep(0.01)
    writer.write(b"ping\n")
    assert await reader.readline() == b"ping\n"
    writer.close()
    await writer.wait_closed()


async def test_closed_port_is_an_error(local: Local) -> None:
    sandbox_id = await local.sandbox()
    with pytest.raises(CRIError, match=r"localhost:81 inside namespace .*: Connection refused"):
        await local.runtime.streams.open_port(sandbox_id, 81)
