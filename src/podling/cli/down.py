"""`podling down`"""

from __future__ import annotations

import click

from podling.cli.options import cluster_name


@click.command("down")
@cluster_name
@click.option("--all", "everything", is_flag=True, help="Remove every cluster of this machine.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(name: str, everything: bool, quiet: bool) -> None:
    """Remove a cluster and everything of it. A cluster that is not there is no error."""
    from podling.machine import cluster, record

    cluster.check_machine()
    for each in record.names() if everything else [name]:
        if not quiet:
            click.echo(f'Deleting cluster "{each}" ...')
        cluster.down(each)
