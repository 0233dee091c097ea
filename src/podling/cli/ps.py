"""`podling ps`: the containers of this node's runtime, as `docker ps` shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podling.cli.containers import human_duration, open_view, runtime_dirs

if TYPE_CHECKING:
    from podling.runtime.view import Seen

HEADER = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
ID_WIDTH = 12
COMMAND_WIDTH = 20
GAP = 3
MIN_WIDTH = 10


TITLES = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Networks": "NETWORKS",
    "Mounts": "MOUNTS",
    "Pod": "POD ID",
    "PodName": "PODNAME",
}


@click.command("ps")
@click.option("-a", "--all", "show_all", is_flag=True, help="Show all containers (default: running ones).")
@click.option("-q", "--quiet", is_flag=True, help="Only show container IDs.")
@click.option("--no-trunc", is_flag=True, help="Do not cut IDs and commands.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Such as name=web.")
@click.option("--format", "form", default="", help="json, a Go template, or table and a template.")
@click.option("-n", "--last", type=int, default=-1, help="The last N made, running or not.")
@click.option("-l", "--latest", is_flag=True, help="The last one made, running or not.")
@runtime_dirs
def command(
    show_all: bool,
    quiet: bool,
    no_trunc: bool,
    filters: tuple[str, ...],
    form: str,
    last: int,
    latest: bool,
    root_dir: Path | None,
    run_dir: Path | None,
) -> None:
    """List containers of this node's runtime, as docker would."""
    from podling.cli.filters import container_filter

    every = open_view(root_dir, run_dir).all()
    wanted = container_filter(filters, every)
    last = 1 if latest else last
    show_all = show_all or last >= 0 or wanted.says_state
    seen = [one for one in every if (show_all or one.state == "running") and wanted(one)]
    seen = seen[:last] if last >= 0 else seen
    if quiet:
        for one in seen:
            click.echo(one.id if no_trunc else one.id[:ID_WIDTH])
        return
    now = time.time_ns()
    if form:
        click.echo(_formatted(form, seen, now, cut=not no_trunc), nl=False)
    else:
        click.echo(table([HEADER, *(row(one, now, cut=not no_trunc) for one in seen)]), nl=False)


def _formatted(form: str, seen: Sequence[Seen], now_ns: int, *, cut: bool) -> str:
    from podling.cli.template import TemplateError, formatted

    pods = {one.id: one.settings.pod_info.name for one in seen if one.settings and one.settings.pod_info}
    try:
        return formatted(form, [_fields(one, now_ns, pods, cut=cut) for one in seen], TITLES)
    except TemplateError as err:
        raise click.ClickException(str(err)) from err


def _fields(one: Seen, now_ns: int, pods: Mapping[str, str], *, cut: bool) -> dict[str, Any]:
    """docker's names; and podman's for pods."""
    identity, image, words, created, state, published, name = row(one, now_ns, cut=cut)
    labels = labels_of(one)
    pod = one.settings.pod if one.settings else one.sandbox.id if one.sandbox else ""
    moment = time.localtime(one.created_at / 1e9)
    return {
        "ID": identity,
        "Image": image,
        "Command": words,
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", moment),
        "RunningFor": created,
        "Status": state,
        "State": str(one.state),
        "Ports": published,
        "Names": name,
        "Labels": ",".join(f"{key}={value}" for key, value in labels.items()),
        "Label": lambda key: labels.get(key, ""),
        "Networks": one.settings.network if one.settings else "",
        "Mounts": ",".join(m.host_path for m in one.container.config.mounts) if one.container else "",
        "Pod": pod[:ID_WIDTH] if cut else pod,
        "PodName": pods.get(pod, ""),
    }


def labels_of(one: Seen) -> dict[str, str]:
    if one.container is not None:
        return one.container.config.labels
    return one.sandbox.config.labels if one.sandbox else {}


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
