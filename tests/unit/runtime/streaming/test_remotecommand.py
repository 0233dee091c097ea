"""What clients are told at the end, terminal sizes, and the queue between receiver and reader."""

from __future__ import annotations

import asyncio
import json

import pytest

from podling.runtime.streaming.bytequeue import ByteQueue
from podling.runtime.streaming.remotecommand import (
    encode_status,
    exit_status,
    internal_error_status,
    terminal_sizes,
)


def test_a_non_zero_exit_is_a_status_kubectl_reads_the_code_from() -> None:
    status = json.loads(encode_status(exit_status(["sh", "-c", "exit 3"], 3), version=4))
    assert status == {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code: "
        "error executing command [sh -c exit 3], exit code 3",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    }


def test_success_is_a_status_from_v4_on_and_silence_before() -> None:
    assert json.loads(encode_status(exit_status(["true"], 0), version=5)) == {
        "metadata": {},
        "status": "Success",
    }
    assert encode_status(exit_status(["true"], 0), version=3) == b""


def test_old_protocols_get_the_bare_message() -> None:
    assert encode_status(internal_error_status("no"), version=1) == b"Internal error occurred: no"


@pytest.mark.parametrize(
    ("chunks", "sizes"),
    [
        ([b'{"Width":80,"Height":24}\n', b'{"Width":100,"Height":30}\n'], [(80, 24), (100, 30)]),
        ([b'{"Wid', b'th":80,"Height":', b'24}{"Width":1,"Height":2}'], [(80, 24), (1, 2)]),
        ([b'{"width":80,"height":24}'], [(80, 24)]),
        ([b'{"Width":-1,"Height":24}{"Width":"x"}[] {"Width":5,"Height":6}'], [(5, 6)]),
        ([b"nonsense" * 1000, b'{"Width":5,"Height":6}'], []),
        ([], []),
    ],
)
async def test_terminal_sizes(chunks: list[bytes], sizes: list[tuple[int, int]]) -> None:
    queue = ByteQueue()
    for chunk in chunks:
        queue.feed(chunk)
    queue.feed_eof()
    assert [size async for size in terminal_sizes(queue)] == sizes


async def test_a_queue_gives_what_it_got_then_the_end() -> None:
    consumed: list[int] = []
    queue = ByteQueue(consumed.append)
    queue.feed(b"one")
    queue.feed(b"two")
    queue.feed_eof()
    queue.feed(b"ignored")
    assert [await queue.read() for _ in range(4)] == [b"one", b"two", b"", b""]
    assert consumed == [3, 3]


async def test_a_full_queue_makes_room_when_read_or_discarded() -> None:
    queue = ByteQueue()
    queue.feed(b"x" * 100)
    waiting = asyncio.create_task(queue.room(50))
    await asyncio.sleep(0)
    assert not waiting.done()
    await queue.read()
    await waiting
    queue.feed(b"y" * 100)
    queue.discard()
    await queue.room(0)
    assert await queue.read() == b""
