"""`podling top`"""

from __future__ import annotations

import os
import pwd
import time
from contextlib import suppress
from pathlib import Path

import click

from podling.cli.byhand import running

COLUMNS = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
PTS_MAJOR = 136  # <linux/major.h>


@click.command("top")
@click.argument("name", metavar="ID|NAME")
def command(name: str) -> None:
    """Show the processes of a container, with their PIDs on this node."""
    from podling.cli.ps import table
    from podling.linux.cgroups import Cgroups

    seen = running(name)
    cgroup = seen.container.cgroup if seen.container else seen.sandbox.cgroup if seen.sandbox else ""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for pid in Cgroups().procs(cgroup):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            rows.append(_row(pid))
    click.echo(table(rows), nl=False)


def _row(pid: int) -> tuple[str, ...]:
    """`ps -f`'s columns from /proc (`man 5 proc`)."""
    folder = Path(f"/proc/{pid}")
    name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
    fields = rest.split()
    tick = os.sysconf("SC_CLK_TCK")
    cpu_s = (int(fields[11]) + int(fields[12])) / tick
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    age_s = up_s - int(fields[19]) / tick
    words = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return (
        _user(folder.stat().st_uid),
        str(pid),
        fields[1],
        str(int(100 * cpu_s / age_s) if age_s > 0 else 0),
        time.strftime("%H:%M", time.localtime(time.time() - age_s)),
        _terminal(int(fields[4])),
        time.strftime("%H:%M:%S", time.gmtime(cpu_s)),
        words or f"[{name}]",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(device: int) -> str:
    if not device:
        return "?"
    major, minor = os.major(device), os.minor(device)
    return f"pts/{minor + 256 * (major - PTS_MAJOR)}" if PTS_MAJOR <= major < PTS_MAJOR + 8 else "?"
