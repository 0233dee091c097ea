"""The OCI runtime's command line (crun, or another one with the same commands).

    OCIError(command, exit_code, message)

The runtime's own words are in the message; nothing is decided by them. Each call is one short process of some
5 ms, and at most `RuntimeConfig.max_parallel_starts` run at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podling.linux.sealed import sealed_copy
from podling.runtime.spawn import Finished, Runner

log = logging.getLogger(__name__)


class OCIError(Exception):
    """The OCI runtime refused; `message` is what it said, `command` what to paste to see it again."""

    def __init__(self, command: str, exit_code: int, message: str) -> None:
        super().__init__(message or f"exit code {exit_code}")
        self.command = command
        self.exit_code = exit_code
        self.message = message or f"the OCI runtime ended with code {exit_code} and said nothing"


class MissingProgramError(Exception):
    """A program we cannot work without; the message says how to get it."""


def find_program(name: str, package: str) -> str:
    """Its absolute path, as conmon wants it. Raises `MissingProgramError`."""
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} not found: install it (Debian, Ubuntu: apt-get install {package})")
    return found


class Crun:
    def __init__(self, program: str, root: Path, runner: Runner) -> None:
        self.program = program
        self.root = root
        self.runner = runner
        self.executable = program
        """What to execute: a sealed copy, which spares each call 2 ms (`podling.linux.sealed`)."""
        self._sealed = -1
        try:
            self._sealed = sealed_copy(program)
            # This path is good for our children's children (conmon's) too.
            self.executable = f"/proc/{os.getpid()}/fd/{self._sealed}"
        except OSError as err:
            log.info("no sealed copy of %s: %s", program, err)

    def close(self) -> None:
        """Let go of the copy. Twice is fine."""
        self.executable = self.program
        fd, self._sealed = self._sealed, -1
        if fd >= 0:
            os.close(fd)

    @property
    def global_options(self) -> list[str]:
        return [f"--root={self.root}", "--cgroup-manager=cgroupfs"]

    def argv(self, *arguments: str) -> list[str]:
        return [self.executable, *self.global_options, *arguments]

    async def run_detached(self, container_id: str, bundle: Path, pid_file: Path) -> int:
        """Create and start in one process; returns the PID. Standard streams are /dev/null."""
        # The errors go to a file: the container inherits our output, and would keep it open for life.
        log = bundle / "crun.log"
        options = [f"--log={log}", "run", "--detach", f"--bundle={bundle}", f"--pid-file={pid_file}"]
        done = await self.runner.run(self.argv(*options, container_id), capture=False)
        if done.exit_code != 0:
            said = log.read_text(errors="replace").strip() if log.exists() else ""
            raise OCIError(done.command, done.exit_code, said)
        return int(pid_file.read_text())

    async def start(self, container_id: str, *, hooks: bool = False) -> None:
        """Let the first process of a created container go on to the user's command."""
        if hooks or not self._open_gate(container_id):
            await self._checked("start", container_id)

    def _open_gate(self, container_id: str) -> bool:
        """All that `crun start` does for a container without hooks, but without the 5 ms of a process.

        The created container reads from a fifo beside its state; whoever writes a byte removes the fifo and
        has started it. False when anything is not as expected: then the command must do it.
        """
        fifo = self.root / container_id / "exec.fifo"
        try:
            # Not blocking: without a reader the open fails (ENXIO) instead of waiting for one.
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                return False
            fifo.unlink()
            os.write(fd, b"\0")
            return True
        finally:
            os.close(fd)

    async def delete(self, container_id: str, *, ended: bool = False) -> None:
        """Kill what is left of it and forget its state. One that is not there is done already.

        `ended`: its processes are known to be gone. Then only files are left, and the caller removes the
        cgroup (OCI runtime spec, "Delete"); no process is needed for that.
        """
        if ended:
            await asyncio.to_thread(shutil.rmtree, self.root / container_id, ignore_errors=True)
        if not (self.root / container_id).exists():
            return
        done = await self.runner.run(self.argv("delete", "--force", container_id))
        if done.exit_code != 0 and (self.root / container_id).exists():
            raise _error(done)

    async def state(self, container_id: str) -> dict[str, Any] | None:
        """OCI runtime spec, "Query State"; None when it is not known."""
        done = await self.runner.run(self.argv("state", container_id))
        if done.exit_code != 0:
            return None
        parsed: dict[str, Any] = json.loads(done.output)
        return parsed

    async def features(self) -> set[str]:
        """What it is built with: `+SECCOMP`, `+CRIU`, ..."""
        done = await self.runner.run([self.executable, "--version"])
        return {word for word in done.output.split() if word.startswith("+")}

    async def update(self, container_id: str, resources: Path) -> None:
        """Apply `linux.resources` from a file to a running container."""
        await self._checked("update", f"--resources={resources}", container_id)

    def exec_argv(
        self, container_id: str, process: Path, pid_file: Path, extra: Sequence[str] = ()
    ) -> list[str]:
        return self.argv("exec", f"--process={process}", f"--pid-file={pid_file}", *extra, container_id)

    async def _checked(self, *arguments: str) -> Finished:
        done = await self.runner.run(self.argv(*arguments))
        if done.exit_code != 0:
            raise _error(done)
        return done


def _error(done: Finished) -> OCIError:
    return OCIError(done.command, done.exit_code, done.output)
