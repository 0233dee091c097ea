from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time

import pytest

from podling.linux.inotify import IN_CREATE, Inotify
from podling.linux.pidfd import Process, command_line
from podling.linux.posix_spawn import posix_spawn
from podling.linux.processes import start_time
from podling.linux.sealed import sealed_copy


async def test_end_is_seen_by_everyone_who_waits() -> None:
    pid = posix_spawn("sleep", ["sleep", "1000"], os.environ, files={}, cwd="/")
    process = Process.open(pid)
    assert process is not None
    waiters = [asyncio.create_task(process.ended()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not process.over
    assert process.send(signal.SIGTERM)
    async with asyncio.timeout(5):
        await asyncio.gather(*waiters)
        await process.ended()  # afterwards too
    assert process.over
    assert process.reap() == 128 + signal.SIGTERM
    assert not process.send(signal.SIGTERM)
    process.close()
    process.close()


async def test_a_process_that_is_not_our_child() -> None:
    """Its parent is a shell that has ended."""
    out = subprocess.run(  # noqa: ASYNC221
        ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
    )
    pid = int(out.stdout)
    process = Process.open(pid, start_time(pid))
    assert process is not None
    assert command_line(pid) == ["sleep", "1000"]
    process.send(signal.SIGKILL)
    async with asyncio.timeout(5):
        await process.ended()
    assert process.reap() is None
    process.close()


def test_successor_of_a_pid_is_not_taken_for_it() -> None:
    assert Process.open(os.getpid(), 1) is None
    assert Process.open(os.getpid(), start_time(os.getpid())) is not None
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Process.open(ended.pid) is None  # a zombie
    ended.wait()
    assert Process.open(ended.pid) is None


async def test_dropped_callbacks_are_not_called() -> None:
    pid = posix_spawn("sleep", ["sleep", "1000"], os.environ, files={}, cwd="/")
    process = Process.open(pid)
    assert process is not None
    process.when_over(lambda: pytest.fail("called"))
    process.send(signal.SIGKILL)
    process.close()
    os.waitpid(pid, 0)  # noqa: ASYNC222
    await asyncio.sleep(0.01)


def test_spawn_gives_files_a_folder_and_clean_signals(tmp_path: object) -> None:
    reading, writing = os.pipe()
    script = "pwd; grep SigIgn /proc/self/status; ps -o sid= -p $$; echo $A; cat >&5"
    argv = ["sh", "-c", script]
    feed = os.open("/dev/null", os.O_RDONLY)
    files = {0: feed, 1: writing, 5: writing}
    pid = posix_spawn("sh", argv, {"A": "b", "PATH": os.environ["PATH"]}, files=files, cwd=str(tmp_path))
    os.close(writing)
    os.close(feed)
    with os.fdopen(reading) as output:
        folder, ignored, session, variable = output.read().split("\n")[:4]
    os.waitpid(pid, 0)
    assert folder == str(tmp_path)
    # Signals 32 and 33 are the C library's own.
    assert int(ignored.split()[1], 16) & ~(3 << 31) == 0
    assert int(session) == pid
    assert variable == "b"


@pytest.mark.parametrize(
    ("program", "cwd", "error"),
    [("no-such-program", "/", FileNotFoundError), ("true", "/nope", FileNotFoundError), ("/", "/", OSError)],
)
def test_spawn_reports_what_failed(program: str, cwd: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        posix_spawn(program, [program], {}, files={}, cwd=cwd)


def test_sealed_program_runs_and_cannot_be_written() -> None:
    fd = sealed_copy("/bin/true")
    path = f"/proc/{os.getpid()}/fd/{fd}"
    assert subprocess.run([path], check=False).returncode == 0
    with pytest.raises(OSError, match=r"not permitted|Text file busy|Permission"):
        os.write(fd, b"x")
    os.close(fd)


async def test_inotify_tells_of_a_change(tmp_path: object) -> None:
    with Inotify(str(tmp_path), IN_CREATE) as folder:
        waiting = asyncio.create_task(folder.changed())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        start = time.monotonic()
        with open(f"{tmp_path}/new", "w"):  # noqa: ASYNC230
            pass
        async with asyncio.timeout(5):
            await waiting
        assert time.monotonic() - start < 1
    with pytest.raises(FileNotFoundError):
        Inotify(f"{tmp_path}/nope", IN_CREATE)
