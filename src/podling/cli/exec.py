"""`podling exec`"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from podling.cli import run_options
from podling.cli.byhand import DockerCommand, Refused, core_with, opened, running

if TYPE_CHECKING:
    from podling.runtime.core import Core


@click.command("exec", cls=DockerCommand, context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass our standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it; its output goes nowhere.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Environment variables, one a line.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="By name or number.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.option("--privileged", is_flag=True, help="All capabilities.")
@click.argument("name", metavar="ID|NAME")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def command(name: str, argv: tuple[str, ...], **options: Any) -> int:
    """Run a command in a running container; its exit code is this command's.

    126 it cannot be executed, 127 it was not found.
    """
    seen = running(name)
    tty, stdin = options["tty"], options["interactive"] and not options["detach"]
    if tty and stdin and not sys.stdin.isatty():
        raise Refused("the input device is not a TTY", 1)
    with opened() as hand:
        core = core_with(hand, seen)
        process = _process(core, seen.id)
        change = _change(core, seen.id, process, options)
        _check(core, seen.id, argv[0], {**process, **change})
        if options["detach"]:
            return asyncio.run(_detached(core, seen.id, argv, change))
        return asyncio.run(_exec(core, seen.id, argv, change, stdin=stdin, terminal=tty))


def _process(core: Core, container_id: str) -> dict[str, Any]:
    import json

    text = (core.paths.bundle(container_id) / "config.json").read_bytes()
    process: dict[str, Any] = json.loads(text)["process"]
    return process


def _change(
    core: Core, container_id: str, process: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """What of the container's own process is to be otherwise."""
    from podling.runtime import oci
    from podling.runtime.cri import messages as cri

    change: dict[str, Any] = {}
    if given := run_options.environment(options["env"], options["env_file"]):
        change["env"] = oci.environment([*process["env"], *given], tty=False)
    if options["workdir"]:
        if not options["workdir"].startswith("/"):
            raise Refused(f"Cwd must be an absolute path: {options['workdir']}", 126)
        change["cwd"] = options["workdir"]
    if options["user"]:
        change["user"] = _user(core, container_id, options["user"])
        if change["user"]["uid"]:
            # As docker: only root has them; what was given to the container stays its bound.
            bounding = process["capabilities"].get("bounding", [])
            change["capabilities"] = {"bounding": bounding, "effective": [], "permitted": []}
    if options["privileged"]:
        context = cri.LinuxContainerSecurityContext(privileged=True)
        change["capabilities"] = oci.capability_sets(context, core.host.capabilities)
    return change


def _user(core: Core, container_id: str, wanted: str) -> dict[str, Any]:
    from podling.runtime import users

    try:
        user = users.resolve(core.paths.rootfs(container_id), users.UserRequest(image_user=wanted))
    except users.UnknownUserError as err:
        raise Refused(str(err), 126) from err
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _check(core: Core, container_id: str, word: str, process: dict[str, Any]) -> None:
    """Told by us, as start_exec's refusal has no exit code."""
    from podling.runtime.byhand.errors import command_error
    from podling.runtime.container_start import explain_command

    problem = explain_command(core.paths.rootfs(container_id), word, process["env"], process["cwd"])
    if problem:
        error = command_error(problem)
        text = f"OCI runtime exec failed: exec failed: unable to start container process: {problem}"
        raise Refused(text, error.exit_code)


async def _exec(
    core: Core,
    container_id: str,
    argv: tuple[str, ...],
    change: dict[str, Any],
    *,
    stdin: bool,
    terminal: bool,
) -> int:
    from podling.cli.streams import Detached, pump, raw_terminal
    from podling.runtime.streams_backend import RuntimeStreams

    stream = await RuntimeStreams(core).open_exec(
        container_id, argv, tty=terminal, stdin=stdin, stdout=True, stderr=not terminal, change=change
    )
    with raw_terminal(terminal and stdin):
        try:
            await pump(stream, stdin=stdin, terminal=terminal)
        except Detached:
            await stream.detach()
            return 0
    return await stream.wait()


async def _detached(core: Core, container_id: str, argv: tuple[str, ...], change: dict[str, Any]) -> int:
    from podling.runtime.exec_process import failure, start_exec

    container = core.container(container_id)
    running = await start_exec(core, container, argv, files={}, change=change, detach=True)
    await running.crun.ended()
    code, said = running.crun.reap(), failure(running)
    running.close()
    if said:
        raise Refused(said, 126)
    return code or 0
