"""`podling` by hand for tests: state below a folder of the test's, in the test's own network namespace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podling.testing.cluster import eventually

FOREVER = ("busybox", "sleep", "1000")


class ByHand:
    """`podling` with places of its own, so that nothing on the machine is touched."""

    def __init__(self, root: Path, run: Path) -> None:
        self.root, self.run_dir = root, run
        self.env = {**os.environ, "PODLING_HAND_ROOT": str(root), "PODLING_HAND_RUN": str(run)}

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "podling.cli", *args]

    def run(self, *args: str, input: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*args),
            env=self.env,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def __call__(self, *args: str, input: str = "") -> str:
        """Standard output without its last newline."""
        done = self.run(*args, input=input)
        assert done.returncode == 0, (
            f"podling {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout.removesuffix("\n")

    def refused(self, *args: str, code: int = 1) -> str:
        done = self.run(*args)
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        return done.stderr

    def inspect(self, name: str) -> dict[str, Any]:
        (document,) = json.loads(self("inspect", name))
        return dict(document)

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def ip(self, name: str) -> str:
        return str(self.inspect(name)["NetworkSettings"]["IPAddress"])

    def namespace(self, name: str, kind: str) -> int:
        return os.stat(f"/proc/{self.pid(name)}/ns/{kind}").st_ino

    def interfaces(self, name: str) -> list[str]:
        return re.findall(r"^\d+: ([^:@]+)", self("exec", name, "ip", "addr"), re.MULTILINE)

    def leftovers(self) -> list[str]:
        """Files, mounts and processes of containers; the directories themselves and the plugins may stay."""
        kept = {"names", "crun-hybrid", "pause"}
        files = [
            str(path)
            for top in (self.root, self.run_dir)
            for path in top.rglob("*")
            if path.is_file() and path.name not in kept and path.parent.name != "cni-bin"
        ]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.run_dir) in line]
        mounts += [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.root) in line]
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.run_dir) in words:
                processes.append(words.replace("\0", " "))
        return files + mounts + processes


@pytest.fixture
def hand(images: None, tmp_path: Path) -> Iterator[ByHand]:
    """Everything is removed at the end, and then nothing may be left."""
    before = links()
    with tempfile.TemporaryDirectory(prefix="podling-hand-", dir="/run") as run:
        made = ByHand(tmp_path / "hand", Path(run))
        yield made
        if pods := made("pod", "ls", "-q").split():
            made("pod", "rm", "-f", *pods)
        if names := made("ps", "-aq").split():
            made.run("rm", "-f", *names)  # one with --rm may be gone by now; what is left is looked at below
        for line in made("network", "ls").splitlines()[1:]:
            name = line.split()[1]
            if name not in ("host", "none"):
                made("network", "rm", name)

        def nothing() -> None:
            assert made.leftovers() == []

        eventually(nothing)
        assert links() == before


def links() -> set[str]:
    out = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\d+: ([^:@]+)", out, re.MULTILINE))
