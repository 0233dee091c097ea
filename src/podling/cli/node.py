"""`podling node list | shell | exec | stop | start`"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from podling.cli.options import cluster_name


@click.group("node")
def command() -> None:
    """List nodes, open a shell on one, run a command on one, stop and start one."""


@command.command("list")
@cluster_name
def list_nodes(name: str) -> None:
    """The cluster's nodes, their addresses and pod subnets."""
    from podling.machine import record

    made = record.require(name)
    click.echo(f"{'NAME':<16}{'ADDRESS':<16}{'PODS':<18}STATUS")
    for node in made.config.nodes:
        process = made.nodes.get(node.name)
        state = "running" if process is not None and process.alive else "not running"
        click.echo(f"{node.name:<16}{node.address!s:<16}{node.pod_cidr!s:<18}{state}")


@command.command("shell")
@cluster_name
@click.argument("node")
def shell(name: str, node: str) -> int:
    """A shell on the node."""
    return run_on_node(name, node, [os.environ.get("SHELL", "/bin/sh")])


@command.command("exec", context_settings={"ignore_unknown_options": True})
@cluster_name
@click.argument("node")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, node: str, argv: tuple[str, ...]) -> int:
    """Run a command on the node; its exit code is this command's."""
    return run_on_node(name, node, list(argv))


@command.command("stop")
@cluster_name
@click.argument("node")
def stop(name: str, node: str) -> None:
    """Pull the node's plug: everything on it ends at once, its disk stays."""
    from podling.machine import record
    from podling.machine.node_power import stop_node

    stop_node(record.require(name), node)
    click.echo(node)


@command.command("start")
@cluster_name
@click.argument("node")
def start(name: str, node: str) -> None:
    """Start a node that is down, with what its disk holds."""
    from podling.machine import record
    from podling.machine.node_power import start_node

    start_node(record.require(name), node)
    click.echo(node)


def run_on_node(cluster: str, node: str, argv: list[str]) -> int:
    """Exit codes as a shell's: 126 not executable, 127 not found, 128 + N ended by signal N."""
    from podling.machine import record
    from podling.machine.node import fork_into

    pid = record.node_pid(record.require(cluster), node)
    child = fork_into(pid, cluster, node, "exec")
    if child == 0:
        _exec(argv, node)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _exec(argv: list[str], node: str) -> None:
    """In the child: become the command. Never returns."""
    code = 126
    try:
        os.chdir("/")
        # `podling` itself is found on the node wherever it is installed; what the node has comes first.
        path = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
        os.execvpe(argv[0], argv, {**os.environ, "PATH": path, "HOME": "/root", "PS1": f"root@{node}:\\w# "})
    except FileNotFoundError:
        code = 127
        os.write(2, f"podling node: {argv[0]}: not found on {node}\n".encode())
    except OSError as err:
        os.write(2, f"podling node: {argv[0]}: {err.strerror}\n".encode())
    finally:
        os._exit(code)
