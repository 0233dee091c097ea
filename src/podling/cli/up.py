"""`podling up`"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import click

from podling.cli.options import cluster_name


@click.command("up")
@cluster_name
@click.option("--workers", default=2, show_default=True, help="Nodes beside kube-master.")
@click.option(
    "--egress/--no-egress",
    default=True,
    help="Let nodes and pods reach what this machine reaches. [default: egress]",
)
@click.option(
    "--network",
    default="bridge",
    show_default=True,
    metavar="flannel:vxlan|flannel:host-gw|flannel:udp|bridge|FILE",
    help="How pods reach each other; FILE is a CNI configuration for every node.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="Write the context here. [default: $KUBECONFIG or ~/.kube/config]",
)
@click.option("-v", "--v", "verbosity", default=0, help="Verbosity of the daemons' logs; 4 is debug.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    name: str,
    workers: int,
    egress: bool,
    network: str,
    kubeconfig: Path | None,
    verbosity: int,
    quiet: bool,
) -> None:
    """Bring up a cluster on this machine and point kubectl at it."""
    began = time.monotonic()
    # Nothing that an import makes is garbage, so there is no use in looking for some. The supervisor turns
    # it on again.
    gc.disable()

    from podling.client.kubeconfig import default_path
    from podling.machine import cluster
    from podling.machine.config import ClusterConfig, ConfigError, validate_name, validate_workers
    from podling.machine.network import parse_network

    cluster.check_machine()
    try:
        chosen = parse_network(network)
    except ConfigError as err:
        raise ConfigError(f"--network {network}: {err}") from err
    config = ClusterConfig(
        name=validate_name(name),
        index=0,
        workers=validate_workers(workers),
        egress=egress,
        network=chosen,
        verbosity=verbosity,
    )
    # Imported here, before the fork: what the supervisor has imported, every daemon shares.
    import podling.machine.supervisor  # noqa: F401

    def progress(step: str) -> None:
        if not quiet:
            click.echo(f" \N{CHECK MARK} {_STEPS.get(step, step)}  {time.monotonic() - began:.2f} s")

    if not quiet:
        click.echo(f'Creating cluster "{name}" ...')
    made = cluster.up(config, kubeconfig or default_path(os.environ), progress)
    if not quiet:
        click.echo(f'Set kubectl context to "{made.config.context}"')
        click.echo("You can now use your cluster with:\n")
        click.echo(f"kubectl cluster-info --context {made.config.context}")


_STEPS = {"switch": "switch between the nodes", "agents": "agents"}
