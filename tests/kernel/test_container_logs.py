"""Logs of real containers: what conmon writes, the kubelet's rotation, and readers that must miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from kernel.api_local import eventually
from kernel.runtime_local import Local
from kernel.test_kubelet_pods import Node, main, node
from podling.kubelet.log_files import rotated_files
from podling.kubelet.logs import LogOptions, read_log

__all__ = ["node"]  # a fixture

AT_ONCE = {"terminationGracePeriodSeconds": 0}

BURSTS, LINES = 12, 300
COUNT = f"""
i=0
while [ $i -lt {BURSTS * LINES} ]; do
  echo "line $i of a container that writes faster than its reader reads"
  i=$((i + 1))
  [ $((i % {LINES})) -eq 0 ] && sleep 0.5
done
sleep 1000
"""


async def with_logs(node: Node, **settings: Any) -> None:
    await node.kill()
    node.config = dataclasses.replace(node.config, container_log_monitor_interval_s=0.2, **settings)
    await node.start()


def log_path(node: Node, name: str = "main") -> Path:
    (container,) = node.containers(name)
    return Path(container.record.log_path)


async def test_a_follower_misses_nothing_through_rotations(node: Node) -> None:
    await with_logs(node, container_log_max_size="16Ki", container_log_max_files=50)
    await node.run(main(COUNT), **AT_ONCE)
    await node.ready()
    path = log_path(node)
    alive, stopped = [True], asyncio.Event()
    got = bytearray()
    chunks = read_log(path, LogOptions(follow=True), running=lambda: alive[0], stopped=stopped)
    # Slower than the writer: it comes when three files are put aside, two of them compressed.
    got += await anext(chunks)

    async def compressed() -> bool:
        return len([one for one in rotated_files(path) if one.suffix == ".gz"]) >= 2

    await eventually(compressed)
    last = f"line {BURSTS * LINES - 1} of".encode()
    async with asyncio.timeout(60):
        async for chunk in chunks:
            got += chunk
            if last in got:
                break
    alive[0] = False
    numbers = [int(line.split()[1]) for line in got.decode().splitlines()]
    assert numbers == list(range(BURSTS * LINES))
    inodes = {one.stat().st_ino for one in (path, *rotated_files(path))}
    assert len(inodes) >= 4


async def test_a_flood_leaves_as_many_files_as_are_allowed(node: Node) -> None:
    await with_logs(node, container_log_max_size="64Ki", container_log_max_files=3)
    script = "while :; do i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; sleep 0.1; done"
    await node.run(main(script), **AT_ONCE)
    await node.ready()
    path = log_path(node)
    with contextlib.ExitStack() as held:
        first: set[int] = set()

        async def all_new() -> bool:
            """Three generations later nothing of the first is left."""
            files = [path, *rotated_files(path)]
            assert len(files) <= 3, files
            inodes = {one.stat().st_ino for one in files if one.exists()}
            if len(files) == 3 and not first:
                with contextlib.suppress(FileNotFoundError):
                    # Held open, so that no new file gets the number of one that was removed.
                    opened = [held.enter_context(open(one, "rb")) for one in files]  # noqa: ASYNC230
                    first.update(os.fstat(file.fileno()).st_ino for file in opened)
                return False
            return bool(first) and not first & inodes

        await eventually(all_new, timeout_s=60)


async def test_a_log_that_was_renamed_and_not_reopened_is_reopened(node: Node) -> None:
    """The kubelet was killed in between."""
    await node.run(main("while :; do echo tick; sleep 0.1; done"), **AT_ONCE)
    await node.ready()
    path = log_path(node)
    await node.kill()
    path.rename(path.with_name(f"{path.name}.20250131-120000"))
    await with_logs(node)

    async def written() -> bool:
        return path.exists() and path.stat().st_size > 0

    await eventually(written)


async def test_bytes_come_as_they_were_written(local: Local) -> None:
    """Binary data, a line of a megabyte, and an end without a newline: conmon tells parts from lines."""
    script = (
        "head -c 200000 /dev/urandom > /tmp/x; head -c 1000000 /dev/zero | tr '\\0' a >> /tmp/x; cat /tmp/x"
    )
    container_id = await local.run(await local.sandbox(), "sh", "-c", f"{script}; exec sleep 1000")
    rootfs = local.runtime.core.paths.rootfs(container_id)
    path = Path((await local.status(container_id)).log_path)

    async def read(**options: Any) -> bytes:
        chunks = read_log(path, LogOptions(**options), running=lambda: False, stopped=asyncio.Event())
        return b"".join([chunk async for chunk in chunks])

    async def complete() -> bool:
        return len(await read()) >= 1_200_000

    await eventually(complete)
    written = (rootfs / "tmp/x").read_bytes()
    assert await read() == written
    assert await read(limit_bytes=1000) == written[:1000]


async def test_the_log_of_a_removed_attempt_goes_with_it(node: Node) -> None:
    """A container that crashes for ever leaves the logs of two attempts, not of all."""
    await node.run(main("echo once; exit 1"), restartPolicy="Always")
    await node.until(lambda p: p.status.container_statuses[0].restart_count >= 2)
    folder = node.config.pod_logs_dir

    async def two() -> bool:
        names = sorted(one.name for one in folder.rglob("*.log"))
        return len(names) == 2 and "0.log" not in names

    await eventually(two)
