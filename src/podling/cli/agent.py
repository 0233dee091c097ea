"""`podling agent`: flags, words and exit codes of the kubelet."""

from __future__ import annotations

import asyncio
import logging

import click

DEBUG_VERBOSITY = 4


@click.command(
    "agent",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def command(argv: tuple[str, ...]) -> None:
    """Run the node agent on this machine until it is ended: kubelet, runtime, services and DNS."""
    from podling.kubelet.flags import help_of
    from podling.machine.agent_config import agent_config_of, agent_settings, check_swap

    if {"-h", "--help"} & set(argv):
        click.echo(f"Usage: podling agent [FLAGS]\n\n{command.help}\n\nFlags:\n{help_of(agent_settings())}")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = agent_config_of(argv)
    if config.kubelet.verbosity >= DEBUG_VERBOSITY:
        logging.getLogger().setLevel(logging.DEBUG)
    check_swap(config.kubelet)
    import uvloop

    from podling.machine.agent import run_agent

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_agent(config))
