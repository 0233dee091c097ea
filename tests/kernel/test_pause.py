"""The pause program as the kernel sees it: its size, its sleep, its signals, its orphans."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podling.pause.build import pause_path

pytestmark = pytest.mark.kernel


@pytest.fixture
def first() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """pause as PID 1 of a new PID namespace: (unshare, the PID of pause as we see it)."""
    parent = subprocess.Popen(["unshare", "--pid", "--fork", str(pause_path())], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    eventually(lambda: children.read_text().strip() != "")
    pid = int(children.read_text())
    eventually(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "pause")
    yield parent, pid
    if parent.poll() is None:
        os.kill(pid, signal.SIGKILL)
        parent.wait()


def eventually(what: Callable[[], bool], within_s: float = 5.0) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def signals(pid: int, kind: str) -> int:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith(kind))
    return int(line.split()[1], 16)


def test_is_a_few_kilobytes_and_static() -> None:
    binary = pause_path()
    assert binary.stat().st_size <= 742 * 1024
    if platform.machine() in ("x86_64", "aarch64"):
        assert binary.stat().st_size <= 8 * 1024
    assert b"ld-linux" not in binary.read_bytes()


def test_prints_its_version() -> None:
    out = subprocess.run([pause_path(), "-v"], capture_output=True, check=True)
    assert out.stdout.startswith(b"pause (podling) ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_pid_1_ends_with_0_on(first: tuple[subprocess.Popen[bytes], int], number: signal.Signals) -> None:
    parent, pid = first
    eventually(lambda: bool(signals(pid, "SigCgt") & 1 << (number - 1)))
    os.kill(pid, number)
    assert parent.wait(5) == 0


def test_sleeps_in_the_pause_system_call(first: tuple[subprocess.Popen[bytes], int]) -> None:
    _, pid = first
    nr = {"x86_64": 34, "aarch64": 73}.get(platform.machine())
    if nr is None:
        pytest.skip("system call number not known here")
    eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] == str(nr))
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_reaps_orphans_as_pid_1(first: tuple[subprocess.Popen[bytes], int]) -> None:
    _, pid = first
    # The shell leaves a child behind and ends; the child becomes pause's, ends, and must not stay a zombie.
    enter = ["nsenter", f"--target={pid}", "--pid", "sh", "-c", "(sleep 0.05; exit 3) & exit 0"]
    subprocess.run(enter, check=True)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    eventually(lambda: children.read_text().strip() != "")
    eventually(lambda: children.read_text().strip() == "")


def test_not_being_pid_1_is_only_a_warning() -> None:
    started = subprocess.Popen([pause_path()], stderr=subprocess.PIPE)
    assert started.stderr is not None
    assert b"not PID 1" in started.stderr.readline()
    started.terminate()
    assert started.wait(5) == 0
    started.stderr.close()
