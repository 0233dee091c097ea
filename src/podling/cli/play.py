"""`podling play`"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from podling.cli.byhand import Refused, opened


@click.command("play")
@click.option("--down", is_flag=True, help="Remove the pods of the manifest.")
@click.option("--replace", is_flag=True, help="Remove them first, if they are there.")
@click.option("--network", "--net", default="", help="A network for the pods (`podling network create`).")
@click.argument("file")
def command(down: bool, replace: bool, network: str, file: str) -> None:
    """Run the pods of a manifest without a cluster: Pod, Deployment, ConfigMap and Secret.

    FILE may hold several documents; `-` is standard input.
    """
    from podling.cli import run_options
    from podling.play.manifest import ManifestError, read_manifest
    from podling.play.run import down as take_down
    from podling.play.run import play
    from podling.runtime.byhand.errors import HandError
    from podling.runtime.images.errors import ImageError

    try:
        manifest = read_manifest(_read(file), "-" if file == "-" else file)
        with opened() as hand:
            if down:
                pods = asyncio.run(take_down(hand, manifest))
            else:
                for text in manifest.warnings:
                    click.echo(f"WARNING: {text}", err=True)
                work = play(hand, manifest, _tell, network=run_options.network(network), replace=replace)
                pods = asyncio.run(work)
    except ManifestError as err:
        raise click.ClickException(str(err)) from err
    except (HandError, ImageError) as err:
        raise Refused(str(err), 125) from err
    click.echo("Pods removed:" if down else "Pods:")
    for pod in pods:
        click.echo(pod.id)
        if not down:
            for container in pod.containers:
                click.echo(f"  {container.name}")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise click.ClickException(f"open {file}: {getattr(err, 'strerror', None) or err}") from err


def _tell(text: str) -> None:
    click.echo(text, err=True)
