"""`podling pod create | ls | inspect | start | stop | rm`: pods by hand, as with podman."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from podling.cli import run_options
from podling.cli.byhand import Refused, for_each, opened

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand
    from podling.runtime.byhand.pod import Pod, PodWanted

HEADER = ("POD ID", "NAME", "STATUS", "CREATED", "INFRA ID", "# OF CONTAINERS")


@click.group("pod")
def command() -> None:
    """Make, list, start, stop and remove pods, without a cluster."""


@command.command("create")
@click.option("--name", "given", default="", help="A name for the pod.")
@click.option("--share", default="", help="Namespaces its containers share: ipc,net,uts (default), pid.")
@run_options.publishing
@click.argument("name", default="")
def create(given: str, name: str, **options: Any) -> None:
    """Make a pod: a pause container with a network, whose namespaces others join (`podling run --pod`)."""
    from podling.runtime.byhand import pod
    from podling.runtime.byhand.errors import HandError

    wanted = _wanted(given or name, options)
    try:
        with opened() as hand:
            made = asyncio.run(pod.create(hand, wanted))
    except HandError as err:
        raise Refused(str(err), err.exit_code) from err
    click.echo(made.id)


def _wanted(name: str, options: dict[str, Any]) -> PodWanted:
    from podling.runtime.byhand.pod import KINDS, PodWanted
    from podling.runtime.byhand.settings import SHARED
    from podling.runtime.names import new_id

    share = tuple(options["share"].split(",")) if options["share"] else SHARED
    if unknown := set(share) - {*KINDS, "none"}:
        raise run_options.refuse(
            "--share", options["share"], f"invalid namespace: {', '.join(sorted(unknown))}"
        )
    return PodWanted(
        name=name or f"pod-{new_id()[:8]}",
        labels=dict(run_options.label(text) for text in options["label"]),
        share=tuple(kind for kind in share if kind != "none"),
        network=run_options.network(options["network"]),
        hostname=options["hostname"],
        ports=[run_options.port(text) for text in options["publish"]],
        extras=run_options.extras(options),
    )


def list_pods(quiet: bool) -> None:
    """List the pods."""
    from podling.cli.containers import human_duration
    from podling.cli.ps import table
    from podling.runtime.byhand.pod import list_pods as listed

    with opened() as hand:
        pods = listed(hand)
    if quiet:
        for one in pods:
            click.echo(one.id[:12])
        return
    rows = [
        (
            one.id[:12],
            one.name,
            one.status,
            f"{human_duration((time.time_ns() - one.infra.created_at) / 1e9)} ago",
            one.infra.id[:12],
            str(1 + len(one.containers)),
        )
        for one in pods
    ]
    click.echo(table([HEADER, *rows]), nl=False)


for _name in ("ls", "ps"):
    command.command(_name)(click.option("-q", "--quiet", is_flag=True, help="Only IDs.")(list_pods))


@command.command("inspect")
@click.option("-f", "--format", "form", default="", help="json, or a Go template.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def inspect(form: str, names: tuple[str, ...]) -> int:
    """Show pods and their containers, as JSON."""
    from podling.cli.inspect import print_documents
    from podling.runtime.byhand.pod import NoSuchPodError, find

    documents, problems = [], []
    with opened() as hand:
        for name in names:
            try:
                documents.append(_describe(find(hand, name)))
            except NoSuchPodError as err:
                problems.append(str(err))
    return print_documents(documents, form, problems)


def _describe(pod: Pod) -> dict[str, Any]:
    from podling.cli.inspect import moment, network_settings

    settings = pod.infra.settings
    assert settings is not None  # of a container by hand
    return {
        "Id": pod.id,
        "Name": pod.name,
        "Created": moment(pod.infra.created_at),
        "State": pod.status,
        "Hostname": settings.hostname,
        "Labels": pod.info.labels,
        "SharedNamespaces": pod.info.share,
        "InfraContainerID": pod.infra.id,
        "NumContainers": 1 + len(pod.containers),
        "NetworkSettings": network_settings(pod.infra),
        "Containers": [
            {"Id": one.id, "Name": one.name, "State": str(one.state)} for one in (pod.infra, *pod.containers)
        ],
    }


@command.command("start")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def start(names: tuple[str, ...]) -> int:
    """Start pods: pause, then init containers one after the other, then the others."""

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand import pod

        await pod.start(hand, name, tell=lambda text: click.echo(text, err=True))
        return name

    return for_each(names, one)


@command.command("stop")
@click.option("-t", "--time", "seconds", type=float, default=None, help="Seconds before they are killed.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def stop(seconds: float | None, names: tuple[str, ...]) -> int:
    """Stop pods: their containers, then pause and with it the network."""

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand import pod

        await pod.stop(hand, name, timeout_s=seconds)
        return name

    return for_each(names, one)


@command.command("rm")
@click.option("-f", "--force", is_flag=True, help="Kill what runs.")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
def rm(force: bool, names: tuple[str, ...]) -> int:
    """Remove pods with their containers and volumes."""

    async def one(hand: Hand, name: str) -> str:
        from podling.runtime.byhand import pod

        await pod.remove(hand, name, force=force)
        return name

    return for_each(names, one)
