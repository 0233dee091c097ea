"""`podling status`"""

from __future__ import annotations

import click


@click.command("status")
@click.option("--name", envvar="PODLING_NAME", default=None, help="Only this cluster.")
def command(name: str | None) -> int:
    """Show the clusters of this machine: their nodes and daemons. Exit code 1 when one is not whole."""
    from podling.machine import record
    from podling.machine.supervisor import CONTROL_PLANE, agent_of

    names = [name] if name else record.names()
    if not names:
        click.echo('No clusters on this machine: make one with "podling up".')
    whole = True
    for each in names:
        made = record.require(each)
        supervisor = made.supervisor is not None and made.supervisor.alive
        click.echo(f"{each}  {made.config.server}  supervisor {'running' if supervisor else 'not running'}")
        whole = whole and supervisor
        for node in made.config.nodes:
            parts = {"node": made.nodes.get(node.name), "agent": made.processes.get(agent_of(node.name))}
            if node.control_plane:
                parts["control plane"] = made.processes.get(CONTROL_PLANE)
            states = {part: ref is not None and ref.alive for part, ref in parts.items()}
            whole = whole and all(states.values())
            told = ", ".join(f"{part} {'running' if up else 'not running'}" for part, up in states.items())
            click.echo(f"  {node.name:<14} {node.address!s:<14} pods {node.pod_cidr!s:<16} {told}")
    return 0 if whole else 1
