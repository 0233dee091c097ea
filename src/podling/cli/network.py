"""`podling network create | ls | rm | inspect`"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from podling.cli.byhand import for_each, opened

if TYPE_CHECKING:
    from podling.runtime.byhand.hand import Hand
    from podling.runtime.byhand.network import Network

HEADER = ("NETWORK ID", "NAME", "DRIVER", "SCOPE")


@click.group("network")
def command() -> None:
    """Make, list and remove networks for containers run by hand."""


@command.command("create")
@click.option("-d", "--driver", type=click.Choice(["bridge"]), default="bridge", help="Only bridge.")
@click.option("--subnet", default="", metavar="CIDR", help="Default: a free one of 10.89.0.0/16.")
@click.option("--gateway", default="", metavar="IP", help="Default: the subnet's first address.")
@click.option("--internal", is_flag=True, help="No way out of the machine.")
@click.argument("name")
def create(driver: str, subnet: str, gateway: str, internal: bool, name: str) -> None:
    """Make a network: a bridge on this node, with addresses of its own."""
    from podling.runtime.byhand import network

    with opened() as hand:
        made = asyncio.run(network.create(hand, name, subnet=subnet, gateway=gateway, internal=internal))
    click.echo(made.id)


@command.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Only IDs.")
def list_(quiet: bool) -> None:
    """List the networks."""
    from podling.cli.ps import table
    from podling.runtime.byhand.network import list_networks

    with opened() as hand:
        rows = [(one.id[:12], one.name, "bridge", "local") for one in list_networks(hand)]
    if quiet:
        for row in rows:
            click.echo(row[0])
        return
    modes = [("-", mode, driver, "local") for mode, driver in (("host", "host"), ("none", "null"))]
    click.echo(table([HEADER, *rows, *modes]), nl=False)


@command.command("rm")
@click.argument("names", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> int:
    """Remove networks that no running container uses."""
    from podling.runtime.byhand import network

    return for_each(names, network.remove)


@command.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
def prune(force: bool) -> None:
    """Remove every network that no container is for."""
    from podling.runtime.byhand import network

    if not force:
        click.echo("WARNING! This will remove all custom networks not used by at least one container.")
        if not click.confirm("Are you sure you want to continue?", default=False):
            return
    with opened() as hand:
        removed = asyncio.run(network.prune(hand))
    if removed:
        click.echo("Deleted Networks:\n" + "\n".join(removed))


@command.command("inspect")
@click.option("-f", "--format", "form", default="", help="json, or a Go template.")
@click.argument("names", nargs=-1, required=True)
def inspect(form: str, names: tuple[str, ...]) -> int:
    """Show networks and the containers in them, as JSON."""
    from podling.cli.inspect import print_documents
    from podling.runtime.byhand.network import find

    documents, missing = [], []
    with opened() as hand:
        for name in names:
            network = find(hand, name)
            if network is None:
                missing.append(name)
            else:
                documents.append(_describe(hand, network))
    return print_documents(documents, form, [f"network {name} not found" for name in missing])


def _describe(hand: Hand, network: Network) -> dict[str, Any]:
    from podling.runtime.byhand.network import users_of

    length = network.subnet.prefixlen
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "host-local",
            "Config": [{"Subnet": str(network.subnet), "Gateway": str(network.gateway)}],
        },
        "Internal": network.internal,
        "Containers": {
            seen.id: {"Name": seen.name, "IPv4Address": f"{seen.settings.ips[0]}/{length}"}
            for seen in users_of(hand, network)
            if seen.settings
        },
        "Options": {"com.docker.network.bridge.name": network.bridge},
    }
