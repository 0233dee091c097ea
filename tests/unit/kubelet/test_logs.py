"""Reading container logs as kubectl logs asks for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from podling.kubelet.log_format import parse_line, timestamp_seconds
from podling.kubelet.logs import LogOptions, read_log


def line(number: int, text: str, *, tag: str = "F", stream: str = "stdout") -> bytes:
    return f"2025-01-31T12:00:{number:02d}.123456789Z {stream} {tag} {text}\n".encode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(line(i, f"line {i}") for i in range(10)))
    return path


async def read(path: Path, **options) -> bytes:
    chunks = read_log(path, LogOptions(**options), running=lambda: False, stopped=asyncio.Event())
    return b"".join([chunk async for chunk in chunks])


async def test_the_whole_log(log: Path) -> None:
    assert await read(log) == b"".join(f"line {i}\n".encode() for i in range(10))


async def test_the_last_lines(log: Path) -> None:
    assert await read(log, tail_lines=2) == b"line 8\nline 9\n"
    assert await read(log, tail_lines=0) == b""
    assert (await read(log, tail_lines=99)).count(b"\n") == 10


async def test_the_tail_of_a_log_larger_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(line(1, f"{i:05d} " + "x" * 200) for i in range(1000)))
    tail = await read(path, tail_lines=300)
    assert tail.startswith(b"00700 ")
    assert tail.count(b"\n") == 300


async def test_parts_of_a_long_line_are_joined_and_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(1, "first") + line(2, "long ", tag="P") + line(3, "line"))
    assert await read(path, tail_lines=1) == b"long line\n"
    assert await read(path, timestamps=True) == (
        b"2025-01-31T12:00:01.123456789Z first\n2025-01-31T12:00:02.123456789Z long line\n"
    )


async def test_since_and_limits_and_streams(log: Path) -> None:
    since = timestamp_seconds("2025-01-31T12:00:08Z")
    assert await read(log, since_s=since) == b"line 8\nline 9\n"
    assert await read(log, limit_bytes=10) == b"line 0\nlin"
    with log.open("ab") as file:
        file.write(line(11, "oops", stream="stderr"))
    assert await read(log, stream="stderr") == b"oops\n"


async def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"garbage\n" + line(1, "good") + b"2025-01-31T12:00:02Z stdout F torn")
    assert await read(path) == b"good\n"
    assert parse_line(b"garbage\n") is None


async def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "none") == b""


async def test_following_sees_new_lines_and_ends_with_the_container(log: Path) -> None:
    alive, stopped = [True], asyncio.Event()
    got: list[bytes] = []
    more = asyncio.Event()

    async def follow() -> None:
        options = LogOptions(follow=True, tail_lines=1)
        async for chunk in read_log(log, options, running=lambda: alive[0], stopped=stopped):
            got.append(chunk)
            more.set()

    async def until(text: bytes) -> None:
        async with asyncio.timeout(5):
            while text not in b"".join(got):
                await more.wait()
                more.clear()

    task = asyncio.create_task(follow())
    await until(b"line 9")
    with log.open("ab") as file:
        file.write(line(10, "line 10"))
    await until(b"line 10")
    log.rename(log.with_suffix(".old"))
    log.write_bytes(line(11, "rotated"))
    await until(b"rotated")
    alive[0] = False
    with log.open("ab") as file:
        file.write(line(12, "last words"))
    stopped.set()
    await asyncio.wait_for(task, 5)
    assert b"".join(got) == b"line 9\nline 10\nrotated\nlast words\n"
