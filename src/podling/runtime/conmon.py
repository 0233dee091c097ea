"""conmon, the monitor of one container: it outlives the agent and keeps what would be lost with it.

It starts the container through the OCI runtime, writes its output to the CRI log file, holds its terminal
and standard input, serves attachments on a socket, notes an OOM kill, and at the end writes the exit code to
a file. It is our child (`--sync`: one fork less), in a session of its own; when we die it goes on as a child
of PID 1.

Files, all below the bundle: `attach` (SEQPACKET socket), `ctl` (fifo), `pid`, `oom` (there after an OOM
kill); and `exits/ID`, whose content is the exit code and whose time of change is the time of the end.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from podling.linux.pidfd import Process
from podling.runtime.crun import Crun, OCIError
from podling.runtime.spawn import start

SYNC_FD = 3
MAX_REPLY = 64 * 1024

# conmon's ctl fifo: "TYPE A B\n"
CTL_RESIZE = 1
CTL_REOPEN_LOG = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConmonOptions:
    container_id: str
    name: str
    bundle: Path
    exits: Path
    log_path: str
    """Empty: output is thrown away."""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    exit_command: tuple[str, ...] = ()
    """Run by conmon after it has written the exit code: absolute path and arguments. Empty: none."""
    kept: tuple[int, ...] = ()
    """Descriptors that stay open while conmon lives: locks. The container does not get them."""
    log_max_bytes: int = 0
    """A log that is larger is begun anew, without what was in it; 0: never."""


@dataclass(frozen=True, slots=True)
class Started:
    """A created container (its first process waits for `start`) and its monitor."""

    pid: int
    conmon: Process


class _Reply(msgspec.Struct):
    pid: int = -1
    message: str = ""


class Conmon:
    def __init__(self, program: str, crun: Crun) -> None:
        self.program = program
        self.crun = crun

    def argv(self, options: ConmonOptions) -> list[str]:
        log = f"k8s-file:{options.log_path}" if options.log_path else "none"
        argv = [
            self.program,
            "--sync",
            f"--cid={options.container_id}",
            f"--cuuid={options.container_id}",
            f"--name={options.name}",
            f"--runtime={self.crun.executable}",
            *(f"--runtime-arg={option}" for option in self.crun.global_options),
            f"--bundle={options.bundle}",
            f"--container-pidfile={options.bundle / 'pid'}",
            f"--exit-dir={options.exits}",
            f"--persist-dir={options.bundle}",
            f"--log-path={log}",
            "--full-attach",
            # An fsync of the log at each end would make a busy disk part of every pod's death.
            "--no-sync-log",
        ]
        if options.log_max_bytes:
            argv.append(f"--log-size-max={options.log_max_bytes}")
        if options.terminal:
            argv.append("--terminal")
        if options.stdin:
            argv.append("--stdin")
            if not options.stdin_once:
                argv.append("--leave-stdin-open")
        if options.exit_command:
            program, *arguments = options.exit_command
            argv.append(f"--exit-command={program}")
            argv += [f"--exit-command-arg={argument}" for argument in arguments]
        return argv

    async def create(self, options: ConmonOptions, *, timeout_s: float = 60.0) -> Started:
        """Start conmon and wait until it has created the container. Raises `OCIError`, TimeoutError."""
        argv = self.argv(options)
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(theirs, True)
        errors = os.memfd_create("conmon", os.MFD_CLOEXEC)
        try:
            async with self.crun.runner.slots:
                try:
                    conmon = await start(
                        argv,
                        files={SYNC_FD: theirs, 2: errors, **dict(enumerate(options.kept, SYNC_FD + 1))},
                        environment={"_OCI_SYNCPIPE": str(SYNC_FD)},
                        # Besides its persist directory conmon marks an OOM kill where it stands.
                        cwd=options.bundle,
                    )
                finally:
                    os.close(theirs)
                try:
                    async with asyncio.timeout(timeout_s):
                        text = await _read_line(ours)
                    return Started(_pid_of(argv, text, errors), conmon)
                except BaseException:
                    await _end(conmon)
                    raise
        finally:
            os.close(ours)
            os.close(errors)


def control(bundle: Path, kind: int, first: int = 0, second: int = 0) -> bool:
    """Send conmon a message. False when no conmon listens any more."""
    try:
        # Not blocking: without a reader the open fails at once (ENXIO) instead of waiting for one.
        fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, f"{kind} {first} {second}\n".encode())
    finally:
        os.close(fd)
    return True


def read_exit(exit_file: Path) -> tuple[int, int] | None:
    """(exit code, end in ns since 1970), or None while there is none."""
    try:
        text = exit_file.read_text().strip()
        return int(text), exit_file.stat().st_mtime_ns
    except (FileNotFoundError, ValueError):
        return None


def _pid_of(argv: list[str], text: bytes, errors: int) -> int:
    said = os.pread(errors, MAX_REPLY, 0).decode(errors="replace").strip()
    try:
        reply = msgspec.json.decode(text, type=_Reply)
    except msgspec.MsgspecError:
        reply = _Reply()
    if reply.pid > 0:
        return reply.pid
    # conmon adds a "conmon: option parsing failed" or the like to standard error; the runtime's words win.
    raise OCIError(" ".join(argv), 1, reply.message.strip() or said or "conmon ended early")


async def _read_line(fd: int) -> bytes:
    """What conmon reports: one line, or nothing when it ends first."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    while b"\n" not in got:
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(fd, lambda f=ready: f.done() or f.set_result(None))  # type: ignore[misc]
        try:
            await ready
        finally:
            loop.remove_reader(fd)
        chunk = os.read(fd, MAX_REPLY)
        if not chunk:
            break
        got += chunk
    return bytes(got)


async def _end(conmon: Process) -> None:
    """Of a failed creation: conmon ends by itself; make sure, and leave no zombie."""
    conmon.send(9)
    await asyncio.shield(conmon.ended())
    conmon.reap()
    conmon.close()
