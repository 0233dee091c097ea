"""`podling ps`: the containers of this node's runtime, as `docker ps` shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podling.cli.containers import human_duration, open_view, runtime_dirs

if TYPE_CHECKING:
    from podling.runtime.view import Seen

HEADER = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
ID_WIDTH = 12
COMMAND_WIDTH = 20
GAP = 3
MIN_WIDTH = 10


@click.command("ps")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all containers (default: running ones).")
@click.option("-q", "--quiet", is_flag=True, help="Only show container IDs.")
@click.option("--no-trunc", is_flag=True, help="Do not cut IDs and commands.")
@runtime_dirs
def command(show_all: bool, quiet: bool, no_trunc: bool, root_dir: Path | None, run_dir: Path | None) -> None:
    """List containers of this node's runtime, as docker would."""
    seen = [one for one in open_view(root_dir, run_dir).all() if show_all or one.state == "running"]
    if quiet:
        for one in seen:
            click.echo(one.id if no_trunc else one.id[:ID_WIDTH])
        return
    now = time.time_ns()
    click.echo(table([HEADER, *(row(one, now, cut=not no_trunc) for one in seen)]), nl=False)


def row(one: Seen, now_ns: int, *, cut: bool) -> tuple[str, ...]:
    words = " ".join(one.command)
    if cut and len(words) > COMMAND_WIDTH - 1:
        words = words[: COMMAND_WIDTH - 1] + "…"
    return (
        one.id[:ID_WIDTH] if cut else one.id,
        one.image,
        f'"{words}"',
        f"{_since(one.created_at, now_ns)} ago",
        status(one, now_ns),
        ports(one),
        one.name,
    )


def status(one: Seen, now_ns: int) -> str:
    if one.state == "running":
        return f"Up {_since(one.started_at, now_ns)}"
    if one.state == "exited":
        ago = f" {_since(one.finished_at, now_ns)} ago" if one.finished_at else ""
        return f"Exited ({one.exit_code}){ago}"
    return "Created"


def ports(one: Seen) -> str:
    """Host ports belong to the sandbox, so they show at its pause container."""
    if one.settings is not None:
        return ", ".join(map(str, one.settings.ports)) if one.state == "running" else ""
    if one.container is not None or one.sandbox is None:
        return ""
    return ", ".join(
        f"{port.host_ip or '0.0.0.0'}:{port.host_port}->{port.container_port}/{port.protocol.name.lower()}"
        for port in one.sandbox.config.port_mappings
        if port.host_port
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(MIN_WIDTH, max(map(len, column)) + GAP) for column in zip(*rows, strict=True)]
    lines = ("".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _since(then_ns: int, now_ns: int) -> str:
    return human_duration((now_ns - then_ns) / 1e9)
