"""`podling run`: a container by hand, as with docker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podling.cli.byhand import Refused, opened

if TYPE_CHECKING:
    from podling.runtime.attach import Attachment
    from podling.runtime.byhand.create import Wanted
    from podling.runtime.byhand.hand import Hand, Held
    from podling.runtime.byhand.settings import Port, Restart
    from podling.runtime.cri import messages as cri

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
PORT_MAX = 65535


@click.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container ID.")
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open.")
@click.option("-t", "--tty", is_flag=True, help="Give the container a terminal.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the container when it ends.")
@click.option("--name", default="", help="A name for the container.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set an environment variable.")
@click.option("-v", "--volume", multiple=True, metavar="HOST:PATH[:ro]", help="Bind a directory or file.")
@click.option("-p", "--publish", multiple=True, metavar="[IP:]HOST:PORT[/PROTO]", help="Publish a port.")
@click.option("--network", "--net", default="", help="A network, host, none or container:NAME.")
@click.option("--pid", default="", metavar="MODE", help="host or container:NAME.")
@click.option("--ipc", default="", metavar="MODE", help="host or container:NAME.")
@click.option("--restart", default="no", help="no, on-failure[:N], always or unless-stopped.")
@click.option("--entrypoint", default=None, help="Instead of the image's.")
@click.option("-h", "--hostname", default="", help="The container's host name.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="By name or number.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("-m", "--memory", default="", help="Memory limit, as 64m.")
@click.option("--cpus", type=float, default=0.0, help="Number of processors.")
@click.option("--cap-add", multiple=True, help="Add a capability.")
@click.option("--cap-drop", multiple=True, help="Drop a capability.")
@click.option("--privileged", is_flag=True, help="All capabilities and devices.")
@click.option("--read-only", is_flag=True, help="Mount the root file system read-only.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(**options: Any) -> int:
    """Run a command in a new container.

    Exit codes are docker's: the container's own, 125 it could not be run, 126 the command cannot be
    executed, 127 it was not found.
    """
    from podling.runtime.byhand.errors import HandError
    from podling.runtime.images.errors import ImageError

    try:
        with opened() as hand:
            return asyncio.run(_run(hand, _wanted(options), detach=options["detach"]))
    except HandError as err:
        raise Refused(str(err), err.exit_code) from err
    except ImageError as err:
        raise Refused(str(err), 125) from err


async def _run(hand: Hand, wanted: Wanted, *, detach: bool) -> int:
    from podling.runtime.byhand.create import create

    await _ensure_image(hand, wanted.image)
    held = await create(hand, wanted)
    if detach:
        await _start(hand, held)
        click.echo(held.id)
        return 0
    return await _foreground(hand, held, wanted)


async def _start(hand: Hand, held: Held, attach: Any = None) -> None:
    """A container that cannot start and was to be removed at its end is removed."""
    from podling.runtime.byhand.errors import HandError
    from podling.runtime.byhand.remove import remove
    from podling.runtime.byhand.start import start

    try:
        async with hand.lock(held.id):
            await start(hand, held, attach=attach)
    except HandError:
        if held.settings.auto_remove:
            await remove(hand, held.id)
        raise


async def _foreground(hand: Hand, held: Held, wanted: Wanted) -> int:
    from podling.cli.streams import Detached, pump, raw_terminal
    from podling.runtime.attach import Attachment, connect
    from podling.runtime.byhand.hand import client_lock

    attached: list[Attachment] = []

    async def attach(held: Held) -> None:
        bundle = hand.paths.bundle(held.id)
        connection = await connect(bundle)
        streams = {"stdin": wanted.stdin, "stdout": True, "stderr": not wanted.tty}
        attached.append(Attachment(held.container, bundle, connection, **streams))

    async with hand.lock(client_lock(held.id), shared=True):
        await _start(hand, held, attach)
        loop = asyncio.get_running_loop()
        process = held.record.process
        for name in PASSED_ON if process else ():
            number = getattr(signal, name)
            loop.add_signal_handler(number, _pass_on, held, number)
        with raw_terminal(wanted.tty and wanted.stdin):
            try:
                await pump(attached[0], stdin=wanted.stdin, terminal=wanted.tty)
            except Detached:
                return 0
            code = await hand.exit_code(held.id)
    await _settled(hand, held.id)
    return 255 if code is None else code


def _pass_on(held: Held, number: int) -> None:
    if held.alive and held.record.process is not None:
        os.kill(held.record.process.pid, number)


async def _settled(hand: Hand, container_id: str) -> None:
    """So that what comes after us sees the end's effects: no address, no container after `--rm`."""
    from podling.runtime.byhand.errors import NoSuchContainerError
    from podling.runtime.byhand.remove import remove_ended
    from podling.runtime.byhand.settle import settle

    with suppress(NoSuchContainerError):  # conmon's exit command was faster
        async with hand.lock(container_id):
            held = hand.load(container_id)
            await settle(hand, held)
        if held.settings.auto_remove:
            await remove_ended(hand, container_id)


async def _ensure_image(hand: Hand, name: str) -> None:
    if hand.core.images.resolve(name) is None:
        click.echo(f"Unable to find image {name!r} locally", err=True)
        await hand.core.images.pull(name)


# options


def _wanted(options: dict[str, Any]) -> Wanted:
    from podling.runtime.byhand.create import Wanted
    from podling.runtime.cri import messages as cri

    if options["auto_remove"] and options["restart"] != "no":
        raise Refused("conflicting options: cannot specify both --restart and --rm", 125)
    if options["tty"] and options["interactive"] and not options["detach"] and not sys.stdin.isatty():
        raise Refused("the input device is not a TTY", 1)
    capabilities = cri.Capability(
        add_capabilities=list(options["cap_add"]), drop_capabilities=list(options["cap_drop"])
    )
    return Wanted(
        image=options["image"],
        name=options["name"],
        entrypoint=options["entrypoint"],
        command=list(options["command"]),
        env=[entry for text in options["env"] for entry in _env(text)],
        mounts=[_mount(text) for text in options["volume"]],
        ports=[_port(text) for text in options["publish"]],
        network=_network(options["network"]),
        pid=_mode(options["pid"], "PID"),
        ipc=_mode("" if options["ipc"] in ("private", "shareable") else options["ipc"], "IPC"),
        hostname=options["hostname"],
        user=options["user"],
        workdir=options["workdir"],
        labels=dict(_label(text) for text in options["label"]),
        tty=options["tty"],
        stdin=options["interactive"],
        # With a terminal one may leave (^P ^Q) and come back.
        stdin_once=options["interactive"] and not options["detach"] and not options["tty"],
        auto_remove=options["auto_remove"],
        restart=_restart(options["restart"]),
        context=cri.LinuxContainerSecurityContext(
            capabilities=capabilities,
            privileged=options["privileged"],
            readonly_rootfs=options["read_only"],
        ),
        resources=cri.LinuxContainerResources(
            memory_limit_in_bytes=_bytes(options["memory"]),
            cpu_period=100_000 if options["cpus"] else 0,
            cpu_quota=int(options["cpus"] * 100_000),
        ),
    )


def _refuse(option: str, text: str, why: str) -> Refused:
    return Refused(f'invalid argument "{text}" for "{option}": {why}', 125)


def _env(text: str) -> list[str]:
    """A name alone takes our own value, and says nothing when we have none."""
    if not text or text.startswith("="):
        raise _refuse("-e, --env", text, "invalid environment variable")
    if "=" in text:
        return [text]
    return [f"{text}={os.environ[text]}"] if text in os.environ else []


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _mount(text: str) -> cri.Mount:
    from podling.runtime.cri import messages as cri

    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    modes = set(mode.split(",")) - {""}
    if not source or not target.startswith("/"):
        raise _refuse("-v, --volume", text, "must be HOST:PATH[:ro], and PATH absolute")
    if unknown := modes - {"ro", "rw", "z", "Z", "rslave", "rshared", "rprivate"}:
        raise _refuse("-v, --volume", text, f"invalid mode: {', '.join(sorted(unknown))}")
    if "/" not in source:
        raise _refuse("-v, --volume", text, "named volumes are not there; give a path, as ./data")
    propagation = cri.MountPropagation.PROPAGATION_PRIVATE
    if "rslave" in modes:
        propagation = cri.MountPropagation.PROPAGATION_HOST_TO_CONTAINER
    if "rshared" in modes:
        propagation = cri.MountPropagation.PROPAGATION_BIDIRECTIONAL
    return cri.Mount(
        host_path=str(Path(source).absolute()),
        container_path=target,
        readonly="ro" in modes,
        propagation=propagation,
    )


def _port(text: str) -> Port:
    from podling.runtime.byhand.network import free_port
    from podling.runtime.byhand.settings import Port

    where, _, protocol = text.partition("/")
    *front, container = where.rsplit(":", 2)
    host_ip, host = (front[0], front[1]) if len(front) == 2 else ("", front[0] if front else "")
    if not _number(container) or (host and not _number(host)):
        raise _refuse("-p, --publish", text, f"invalid containerPort or hostPort: {where}")
    if protocol not in ("", "tcp", "udp", "sctp"):
        raise _refuse("-p, --publish", text, f"invalid proto: {protocol}")
    port = Port(
        host_ip=host_ip, host_port=int(host or 0), container_port=int(container), protocol=protocol or "tcp"
    )
    if port.host_port:
        return port
    return Port(
        host_ip=host_ip,
        host_port=free_port(port),
        container_port=port.container_port,
        protocol=port.protocol,
    )


def _number(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= PORT_MAX


def _network(mode: str) -> str:
    from podling.runtime.byhand.settings import DEFAULT_NETWORK

    return DEFAULT_NETWORK if mode in ("", "default", "bridge") else mode


def _mode(mode: str, what: str) -> str:
    if mode in ("", "host") or (mode.startswith("container:") and mode != "container:"):
        return mode
    raise Refused(f"invalid {what} mode: {mode}", 125)


def _restart(text: str) -> Restart:
    from podling.runtime.byhand.settings import Restart

    policy, _, retries = text.partition(":")
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise Refused(f"invalid restart policy: unknown policy '{policy}'", 125)
    if retries and (policy != "on-failure" or not retries.isdecimal()):
        raise Refused(f"invalid restart policy: maximum retry count cannot be used with {text!r}", 125)
    return Restart(policy=policy, retries=int(retries or 0))


def _bytes(text: str) -> int:
    units = {"b": 0, "k": 10, "m": 20, "g": 30}
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].isalpha() else (text, "b")
    if not text:
        return 0
    if unit not in units or not number.isdecimal():
        raise _refuse("-m, --memory", text, "invalid size")
    return int(number) << units[unit]
