"""`podling logs`: what a container wrote, its standard error to ours."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podling.cli.containers import find_one, open_view, runtime_dirs

if TYPE_CHECKING:
    from podling.kubelet.logs import LogOptions
    from podling.runtime.state import ContainerRecord

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|ns|h|m|s)")


@click.command("logs")
@click.argument("name", metavar="ID|NAME")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the container ends.")
@click.option("-n", "--tail", metavar="N", default="all", help='Lines to show from the end, or "all".')
@click.option("-t", "--timestamps", is_flag=True, help="Show the time of each line.")
@click.option("--since", default="", help="Lines from this time on: 2025-01-31T12:00:00Z, or 10m for ago.")
@click.option("--until", default="", help="Lines up to this time.")
@runtime_dirs
def command(
    name: str,
    follow: bool,
    tail: str,
    timestamps: bool,
    since: str,
    until: str,
    root_dir: Path | None,
    run_dir: Path | None,
) -> None:
    """Show the output of a container."""
    from podling.kubelet.logs import LogOptions

    options = LogOptions(
        follow=follow,
        tail_lines=_lines(tail),
        since_s=moment("--since", since),
        until_s=moment("--until", until),
        timestamps=timestamps,
    )
    record = find_one(open_view(root_dir, run_dir), name).container
    if record is None:
        raise click.ClickException(f"{name} is a pause container: it has no output")
    if not record.log_path:
        raise click.ClickException(f"{name} has no log")
    if not os.path.exists(record.log_path):
        if record.started_at:
            raise click.ClickException(f"the log of {name} is gone: {record.log_path}")
        return
    asyncio.run(_show(record, options))


def _lines(tail: str) -> int | None:
    if tail == "all":
        return None
    try:
        return max(0, int(tail))
    except ValueError:
        raise click.BadParameter(f"{tail!r} is neither a number nor all", param_hint="--tail") from None


def moment(option: str, text: str) -> float | None:
    """Seconds since 1970, from a time, such seconds, or a duration before now."""
    if not text:
        return None
    if _PART.sub("", text) == "":
        return time.time() - sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()  # without a zone: ours, as docker has it
    except ValueError:
        why = f'failed to parse value as time or duration: "{text}"'
        raise click.BadParameter(why, param_hint=option) from None


async def _show(record: ContainerRecord, options: LogOptions) -> None:
    from podling.kubelet.logs import read_pieces

    async with _life(record) as (ended, stopped):
        pieces_of = read_pieces(
            Path(record.log_path), options, running=lambda: not ended.done(), stopped=stopped
        )
        async for pieces in pieces_of:
            for stream, text in pieces:
                click.echo(text, nl=False, err=stream == "stderr")


@asynccontextmanager
async def _life(record: ContainerRecord) -> AsyncIterator[tuple[asyncio.Future[None], asyncio.Event]]:
    """conmon's end is awaited, not the container's: by then all output is in the file."""
    from podling.linux.pidfd import Process

    monitor, stopped = record.conmon, asyncio.Event()
    process = Process.open(monitor.pid, monitor.start_time) if monitor and monitor.alive else None
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if process is None:
        ended.set_result(None)
    else:
        ended = asyncio.ensure_future(process.ended())
        ended.add_done_callback(lambda _: stopped.set())
    try:
        yield ended, stopped
    finally:
        ended.cancel()
        if process is not None:
            process.close()
