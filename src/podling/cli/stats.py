"""`podling stats`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podling.cli.byhand import running

if TYPE_CHECKING:
    from podling.linux.cgroups import Cgroups, Stats
    from podling.runtime.view import Seen

HEADER = ("CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "PIDS")
INTERVAL_S = 1.0


@click.command("stats")
@click.option("-a", "--all", "show_all", is_flag=True, help="Containers that do not run, too.")
@click.option("--no-stream", is_flag=True, help="Show it once.")
@click.argument("names", nargs=-1, metavar="[ID|NAME...]")
def command(show_all: bool, no_stream: bool, names: tuple[str, ...]) -> None:
    """Show what containers use of processor, memory and network, once a second."""
    from podling.cli.containers import open_view
    from podling.cli.ps import table
    from podling.linux.cgroups import Cgroups

    cgroups = Cgroups()
    before: dict[str, tuple[float, int]] = {}
    while True:
        every = open_view(None, None).all()
        chosen = [running(name) for name in names] or [s for s in every if show_all or s.state == "running"]
        for one in chosen:
            before.setdefault(one.id, (time.monotonic(), _stats(cgroups, one).cpu_usage_ns or 0))
        time.sleep(INTERVAL_S)
        rows = [_row(cgroups, one, before) for one in chosen]
        if not no_stream:
            click.clear()
        click.echo(table([HEADER, *rows]), nl=False)
        if no_stream:
            return


def _stats(cgroups: Cgroups, seen: Seen) -> Stats:
    return cgroups.stats(
        seen.container.cgroup if seen.container else seen.sandbox.cgroup if seen.sandbox else "/absent"
    )


def _row(cgroups: Cgroups, seen: Seen, before: dict[str, tuple[float, int]]) -> tuple[str, ...]:
    """Processor use since the last look, which it replaces."""
    stats, now = _stats(cgroups, seen), time.monotonic()
    then, cpu_then = before.get(seen.id, (now, 0))
    cpu = stats.cpu_usage_ns or 0
    before[seen.id] = (now, cpu)
    percent = (cpu - cpu_then) / (now - then) / 1e7 if now > then else 0.0
    used = stats.working_set_bytes or 0
    limit = stats.memory_limit_bytes or _machine_memory()
    received, sent = _network(seen.pid) if seen.pid else (0, 0)
    return (
        seen.id[:12],
        seen.name,
        f"{percent:.2f}%",
        f"{human(used, 1024)} / {human(limit, 1024)}",
        f"{100 * used / limit:.2f}%" if limit else "0.00%",
        f"{human(received, 1000)} / {human(sent, 1000)}",
        str(stats.pids or 0),
    )


def _machine_memory() -> int:
    line = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return int(line.split()[1]) * 1024


def _network(pid: int) -> tuple[int, int]:
    """Bytes in and out of every interface but lo."""
    from podling.runtime.container_stats import parse_net_dev

    try:
        interfaces = parse_net_dev(Path(f"/proc/{pid}/net/dev").read_text())
    except OSError:
        return 0, 0
    received, sent = ("receive_bytes", "transmit_bytes")
    return sum(i[received] for i in interfaces.values()), sum(i[sent] for i in interfaces.values())


def human(size: float, base: int) -> str:
    """As docker: four digits, binary units for memory, decimal ones for the network."""
    units = ("B", "KiB", "MiB", "GiB", "TiB") if base == 1024 else ("B", "kB", "MB", "GB", "TB")
    for unit in units[:-1]:
        if size < base:
            return f"{size:.4g}{unit}"
        size /= base
    return f"{size:.4g}{units[-1]}"
