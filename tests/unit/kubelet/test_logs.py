"""Reading container logs as kubectl logs asks for them."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from podling.kubelet.log_files import remove_log, rotated_files
from podling.kubelet.log_format import parse_line, timestamp_seconds
from podling.kubelet.log_rotation import _compress, _tidy
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


async def test_a_follower_goes_through_files_that_were_rotated_while_it_slept(tmp_path: Path) -> None:
    """It is slower than the writer: two files were put aside and one of them compressed before it came."""
    log = tmp_path / "0.log"
    log.write_bytes(line(1, "one") + line(2, "half ", tag="P"))
    chunks = read_log(log, LogOptions(follow=True), running=lambda: False, stopped=asyncio.Event())
    got = [await anext(chunks)]
    with log.open("ab") as file:
        file.write(line(3, "of a line"))
    log.rename(tmp_path / "0.log.20250131-120010")
    log.write_bytes(line(4, "two"))
    log.rename(tmp_path / "0.log.20250131-120020")
    log.write_bytes(line(5, "three"))
    for name in ("0.log.20250131-120010", "0.log.20250131-120020"):
        _compress(tmp_path / name)
    got += [chunk async for chunk in chunks]
    assert b"".join(got) == b"one\nhalf of a line\ntwo\nthree\n"


async def test_streams_keep_their_own_lines(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(
        line(1, "out ", tag="P") + line(2, "err", stream="stderr") + line(3, "goes on") + line(4, "last")
    )
    assert await read(log, timestamps=True, stream="stdout") == (
        b"2025-01-31T12:00:01.123456789Z out goes on\n2025-01-31T12:00:04.123456789Z last\n"
    )


async def test_the_tail_of_one_record_over_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(1, "first") + line(2, "x" * 100_000) + line(3, "last"))
    assert await read(path, tail_lines=2) == b"x" * 100_000 + b"\nlast\n"
    assert await read(path, tail_lines=3) == b"first\n" + b"x" * 100_000 + b"\nlast\n"


async def test_what_is_no_log_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"\0" * (4 << 20) + b"\n" + line(1, "good"))
    assert await read(path) == b"good\n"


def test_old_files_are_compressed_and_the_oldest_removed(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(line(9, "now"))
    for second in range(5):
        (tmp_path / f"0.log.20250131-12000{second}").write_bytes(line(second, f"file {second}"))
    (tmp_path / "0.log.20250131-120000.tmp").write_bytes(b"half made")
    _tidy(log, 3)
    assert [path.name for path in rotated_files(log)] == [
        f"0.log.20250131-12000{second}.gz" for second in (2, 3, 4)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0.log",
        *(f"0.log.20250131-12000{second}.gz" for second in (2, 3, 4)),
    ]
    assert gzip.decompress(rotated_files(log)[0].read_bytes()) == line(2, "file 2")
    remove_log(log)
    assert not list(tmp_path.iterdir())
