"""`podling`: the command line. One file a command, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

COMMANDS = {
    "up": ("podling.cli.up", "Bring up a cluster on this machine"),
    "down": ("podling.cli.down", "Remove a cluster and everything of it"),
    "status": ("podling.cli.status", "Show the clusters of this machine"),
    "kubectl": ("podling.cli.kubectl", "Run kubectl with a cluster's kubeconfig"),
    "node": ("podling.cli.node", "List nodes, open a shell on one, run a command on one, stop and start one"),
    "ps": ("podling.cli.ps", "List containers of this node's runtime, as docker would"),
    "inspect": ("podling.cli.inspect", "Show all about a container or sandbox as JSON"),
    "run": ("podling.cli.run", "Run a command in a new container, as docker would"),
    "exec": ("podling.cli.exec", "Run a command in a running container"),
    "attach": ("podling.cli.attach", "Attach to a running container's first process"),
    "start": ("podling.cli.start", "Start containers again that have ended"),
    "stop": ("podling.cli.stop", "Stop containers"),
    "kill": ("podling.cli.kill", "Send a signal to containers"),
    "rm": ("podling.cli.rm", "Remove containers that were run by hand"),
    "top": ("podling.cli.top", "Show the processes of a container"),
    "stats": ("podling.cli.stats", "Show what containers use"),
    "network": ("podling.cli.network", "Make, list and remove networks for containers run by hand"),
    "pod": ("podling.cli.pod", "Make, list, start, stop and remove pods without a cluster"),
    "play": ("podling.cli.play", "Run the pods of a manifest without a cluster"),
    "logs": ("podling.cli.logs", "Show the output of a container"),
    "image": ("podling.cli.image", "Build, load, list and remove images"),
    "cni": ("podling.cli.cni", "Install the CNI plugins"),
    "flannel": ("podling.cli.flannel", "Run flannel's daemon alone, beside another kubelet"),
    "agent": ("podling.cli.agent", "Run the node agent"),
    "server": ("podling.cli.server", "Run the control plane"),
}


class Commands(click.Group):
    """Subcommands by name; help needs no import of theirs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, help_text = COMMANDS[cmd_name]
        if not _wanted(cmd_name):
            return click.Command(cmd_name, help=help_text)
        command: click.Command = importlib.import_module(module).command
        return command


def _wanted(name: str) -> bool:
    # `podling --help` asks for every command's short help: give it without importing anything.
    return name in sys.argv[1:]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="podling", prog_name="podling")
def cli() -> None:
    """Run Kubernetes pods for real: a cluster of several nodes on this machine, in seconds."""


def main() -> None:
    """Exit codes: 0 done, 1 it failed (the reason is on stderr), 2 wrong usage, 130 interrupted."""
    from podling.cli.errors import expected, message

    try:
        result: Any = cli(prog_name="podling", standalone_mode=False)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`podling ps | head`): nothing to tell anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as err:
        if not expected(err):
            raise
        click.echo(f"ERROR: {message(err)}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)
