"""`podling cni install DIR`"""

from __future__ import annotations

from pathlib import Path

import click


@click.group("cni")
def command() -> None:
    """Our CNI plugins as executables that any runtime can call."""


@command.command("install")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def install_plugins(directory: Path) -> None:
    """Put the plugins into DIRECTORY under their standard names."""
    from podling.cni.install import install

    directory.mkdir(parents=True, exist_ok=True)
    install(directory)
    click.echo(" ".join(sorted(p.name for p in directory.iterdir())))
