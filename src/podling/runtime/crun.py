"""The OCI runtime's command line (crun, or another one with the same commands).

    OCIError(command, exit_code, message)

The runtime's own words are in the message; nothing is decided by them. Each call is one short process of some
5 ms, and at most `RuntimeConfig.max_parallel_starts` run at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podling.runtime.spawn import Finished, Runner


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

    @property
    def global_options(self) -> list[str]:
        return [f"--root={self.root}", "--cgroup-manager=cgroupfs"]

    def argv(self, *arguments: str) -> list[str]:
        return [self.program, *self.global_options, *arguments]

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

    async def start(self, container_id: str) -> None:
        await self._checked("start", container_id)

    async def delete(self, container_id: str) -> None:
        """Kill what is left of it and forget it: state and cgroup. One that is not there is done already."""
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
