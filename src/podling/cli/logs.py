"""`podling logs`: what a container wrote, its standard error to ours."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from podling.cli.containers import find_one, open_view, runtime_dirs

if TYPE_CHECKING:
    from podling.runtime.state import ContainerRecord


@click.command("logs")
@click.argument("name", metavar="ID|NAME")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the container ends.")
@click.option("-n", "--tail", metavar="N", default="all", help='Lines to show from the end, or "all".')
@click.option("-t", "--timestamps", is_flag=True, help="Show the time of each line.")
@runtime_dirs
def command(
    name: str, follow: bool, tail: str, timestamps: bool, root_dir: Path | None, run_dir: Path | None
) -> None:
    """Show the output of a container."""
    record = find_one(open_view(root_dir, run_dir), name).container
    if record is None:
        raise click.ClickException(f"{name} is a pause container: it has no output")
    if not record.log_path:
        raise click.ClickException(f"{name} has no log")
    limit = _lines(tail)
    try:
        log = Log(Path(record.log_path), timestamps=timestamps)
    except FileNotFoundError:
        if record.started_at:
            raise click.ClickException(f"the log of {name} is gone: {record.log_path}") from None
        return
    with log:
        log.show(limit)
        if follow:
            _follow(log, record)


def _lines(tail: str) -> int | None:
    if tail == "all":
        return None
    try:
        return max(0, int(tail))
    except ValueError:
        raise click.BadParameter(f"{tail!r} is neither a number nor all", param_hint="--tail") from None


class Log:
    """A CRI log file (`TIME STREAM TAG MESSAGE`; tag P: the line goes on), read as it grows."""

    def __init__(self, path: Path, *, timestamps: bool) -> None:
        self.path = path
        self._timestamps = timestamps
        self._file: BinaryIO = path.open("rb")
        self._rest = b""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def show(self, limit: int | None = None) -> None:
        """Print what is new; with a limit only its last lines."""
        lines = self._new_lines()
        for line in lines if limit is None else deque(lines, maxlen=limit):
            self._print(line)

    def _new_lines(self) -> Iterator[bytes]:
        for line in self._file:
            self._rest += line
            if line.endswith(b"\n"):
                complete, self._rest = self._rest, b""
                yield complete

    def _print(self, line: bytes) -> None:
        time, _, rest = line.rstrip(b"\n").partition(b" ")
        stream, _, rest = rest.partition(b" ")
        tag, _, message = rest.partition(b" ")
        end = b"" if tag.startswith(b"P") else b"\n"
        stamp = time + b" " if self._timestamps else b""
        click.echo(stamp + message + end, nl=False, err=stream == b"stderr")

    def reopen_if_rotated(self) -> None:
        try:
            if os.stat(self.path).st_ino == os.fstat(self._file.fileno()).st_ino:
                return
        except FileNotFoundError:
            return
        self.show()  # what came before the rename
        self._file.close()
        self._file = self.path.open("rb")


def _follow(log: Log, record: ContainerRecord) -> None:
    import asyncio

    asyncio.run(_until_ended(log, record))


async def _until_ended(log: Log, record: ContainerRecord) -> None:
    """conmon's end is awaited, not the container's: by then all output is in the file."""
    import asyncio

    from podling.linux.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Inotify
    from podling.linux.pidfd import Process

    monitor = record.conmon
    process = Process.open(monitor.pid, monitor.start_time) if monitor and monitor.alive else None
    if process is None:
        return
    with Inotify(log.path.parent, IN_CREATE | IN_MODIFY | IN_MOVED_TO) as folder:
        ended = asyncio.ensure_future(process.ended())
        changed = asyncio.ensure_future(folder.changed())
        log.show()
        while not ended.done():
            await asyncio.wait({changed, ended}, return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                changed = asyncio.ensure_future(folder.changed())
            log.reopen_if_rotated()
            log.show()
        changed.cancel()
        await asyncio.wait({changed})
    process.close()
