"""What every plugin has in common: reading the call, answering it, reporting errors (CNI spec, section 2).

A plugin module defines `PLUGIN` and nothing else that is public. Its functions take `Args`, return or raise,
and neither print nor look at the environment; so they serve in process and, through `main`, as a program.
"""

from __future__ import annotations

import gc
import os
import sys

from podling.cni import jsontext
from podling.cni.types import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INTERNAL,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    KERNEL_REFUSED,
    NEWEST,
    UNNAMED,
    VERSIONS,
    Args,
    CNIError,
    Result,
    UnknownContainer,
)
from podling.linux.netlink.wire import NetlinkError
from podling.linux.netns import is_netns, open_netns
from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    R = TypeVar("R")

SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}  # the version of the spec that brought it
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
IFNAME_MAX = 15  # bytes: IFNAMSIZ less the NUL
STDIN_BYTES = 1 << 16  # read at a time


def _nothing(args: Args) -> None:
    """For commands in which a plugin has nothing to do."""


@record
class Plugin:
    """The commands of one plugin. `delete` succeeds when what it deletes is already gone."""

    name: str
    add: Callable[[Args], Result]
    delete: Callable[[Args], None]
    check: Callable[[Args], None] = _nothing
    status: Callable[[Args], None] = _nothing
    gc: Callable[[Args], None] = _nothing
    prepare: Callable[[Args], None] = _nothing  # ours: what can be made before the first pod
    daemon: Callable[[list[str]], int] | None = None  # `PLUGIN daemon ARGUMENTS`; returns an exit status


def run(plugin: Plugin, args: Args) -> Result | None:
    """Carry out a call in this process. Raises only `CNIError`, whatever goes wrong in the world."""
    check_args(args)
    if args.command == "ADD":
        return guard(plugin, plugin.add, args)
    commands = {"DEL": plugin.delete, "CHECK": plugin.check, "STATUS": plugin.status, "GC": plugin.gc}
    guard(plugin, commands[args.command], args)
    return None


def guard(plugin: Plugin, command: Callable[[Args], R], args: Args) -> R:
    """Call one command, with the errors of kernel and disk put in the terms of the spec."""
    try:
        return command(args)
    except NetlinkError as err:
        raise CNIError(KERNEL_REFUSED, f"{plugin.name} {args.command}: {err.strerror}") from err
    except OSError as err:
        raise CNIError(IO_FAILURE, f"{plugin.name} {args.command}: {err}") from err


def check_args(args: Args) -> None:
    """Refuse what the spec forbids, naming the variable."""
    if args.version not in VERSIONS:
        supported = ", ".join(VERSIONS)
        raise CNIError(
            INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f'config is "{args.version}", plugin supports [{supported}]',
        )
    oldest = SINCE.get(args.command, VERSIONS[0])
    if args.version < oldest:
        raise CNIError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {args.command}",
            f'config is "{args.version}", {args.command} came with {oldest}',
        )
    if not valid_name(args.name):
        raise CNIError(
            INVALID_CONFIG, f"invalid network name: {args.name!r}", "letters, digits, '_', '.', '-'"
        )
    _check_shapes(args.conf)
    if args.command in ("STATUS", "GC"):
        return
    missing = [
        variable
        for variable, value, needed in (
            ("CNI_CONTAINERID", args.container_id, True),
            ("CNI_NETNS", args.netns, args.command != "DEL"),
            ("CNI_IFNAME", args.ifname, True),
        )
        if needed and not value
    ]
    if missing:
        raise CNIError(INVALID_ENVIRONMENT, "required env variables [" + ",".join(missing) + "] missing")
    check_attachment(args.container_id, args.ifname)


def check_attachment(container_id: str, ifname: str) -> None:
    """Refuse what cannot be part of a file's name, or no interface's name."""
    if not valid_name(container_id):
        raise CNIError(INVALID_ENVIRONMENT, f"invalid CNI_CONTAINERID: {container_id!r}")
    _check_ifname(ifname)


def _check_shapes(conf: Mapping[str, Any]) -> None:
    """What all plugins share in a configuration must be of the type the spec gives it."""
    ipam, conventions = conf.get("ipam") or {}, conf.get("args") or {}
    objects = {key: conf.get(key) for key in ("ipam", "dns", "args", "runtimeConfig", "prevResult")}
    if isinstance(conventions, dict):
        objects["args.cni"] = conventions.get("cni")
    wrong = [
        f"{key} must be an object" for key, value in objects.items() if not isinstance(value, dict | None)
    ]
    if isinstance(ipam, dict) and not isinstance(ipam.get("type"), str | None):
        wrong.append("ipam.type must be a string")
    if wrong:
        raise CNIError(DECODING_FAILURE, "error unmarshalling network config: " + "; ".join(wrong))


def valid_name(text: str) -> bool:
    """Whether it may be the name of a network, or a container ID."""
    # CNI spec: alphanumerics first, then also "_", "." and "-". It keeps names usable as file names.
    return bool(text) and text[0].isalnum() and text.isascii() and not text.strip(NAME_CHARACTERS)


NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def _check_ifname(name: str) -> None:
    if len(name.encode()) > IFNAME_MAX:
        raise CNIError(INVALID_ENVIRONMENT, f"CNI_IFNAME {name!r} is longer than {IFNAME_MAX} bytes")
    if name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise CNIError(INVALID_ENVIRONMENT, f"CNI_IFNAME {name!r} is not a valid interface name")


def open_sandbox(args: Args) -> int:
    """A descriptor of the container's network namespace; CNIError CONTAINER_UNKNOWN when there is none."""
    try:
        fd = open_netns(args.netns)
    except FileNotFoundError as err:
        raise UnknownContainer(
            f'failed to open netns "{args.netns}": no such file or directory',
            "the container has ended, or its namespace was removed",
        ) from err
    if is_netns(fd):
        return fd
    os.close(fd)
    raise CNIError(INVALID_ENVIRONMENT, f'failed to open netns "{args.netns}": not a network namespace')


def main(plugin: Plugin) -> None:
    """Be the plugin: environment and stdin in, JSON on stdout, exit status 0 or 1 (CNI spec, section 2)."""
    version = NEWEST
    if plugin.daemon is not None and sys.argv[1:2] == ["daemon"]:
        gc.enable()  # `start` has turned it off
        sys.exit(plugin.daemon(sys.argv[2:]))
    try:
        command = os.environ.get("CNI_COMMAND", "")
        if not command:
            _explain_to_a_person(plugin)
            raise CNIError(INVALID_ENVIRONMENT, "required env variables [CNI_COMMAND] missing")
        if command not in COMMANDS:
            raise CNIError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
        conf = _read_conf(command)
        version = str(conf.get("cniVersion") or NEWEST)
        if command == "VERSION":
            _answer({"cniVersion": version, "supportedVersions": list(VERSIONS)})
        args = args_from_environment(command, conf, os.environ)
        if command == "DEL":
            from podling.linux.netlink.removal import leave_it_to_a_child

            leave_it_to_a_child()
        result = run(plugin, args)
        _answer(result.to_json(args.version) if result is not None else None)
    except CNIError as err:
        _answer(err.to_json(version), status=1)
    except Exception as err:  # a bug of ours still has to be answered in JSON
        import traceback

        traceback.print_exc()
        _answer(CNIError(INTERNAL, f"{plugin.name}: {err!r}").to_json(version), status=1)


def args_from_environment(command: str, conf: dict[str, Any], environ: Mapping[str, str]) -> Args:
    return Args(
        command=command,
        container_id=environ.get("CNI_CONTAINERID", ""),
        netns=environ.get("CNI_NETNS", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        args=environ.get("CNI_ARGS", ""),
        path=tuple(filter(None, environ.get("CNI_PATH", "").split(":"))),
        conf=conf,
    )


def _read_conf(command: str) -> dict[str, Any]:
    text = b"".join(iter(lambda: os.read(0, STDIN_BYTES), b""))  # Python has no sys.stdin yet
    if command == "VERSION" and not text.strip():
        return {}
    try:
        conf = jsontext.loads(text)
    except ValueError as err:
        raise CNIError(DECODING_FAILURE, f"error unmarshalling network config: {err}") from err
    if not isinstance(conf, dict):
        raise CNIError(DECODING_FAILURE, "the network config must be a JSON object")
    if "cniVersion" not in conf:
        conf["cniVersion"] = UNNAMED
    if isinstance(conf.get("runtimeConfig"), dict):
        conf["runtimeConfig"] = {key: _as_documented(item) for key, item in conf["runtimeConfig"].items()}
    return conf


# Members of capability arguments. Go's plugins do not mind how they are capitalised, and containerd writes
# them as its structs name them ("HostPort").
_RUNTIME_KEYS = {
    key.lower(): key
    for key in (
        *("hostPort", "containerPort", "protocol", "hostIP"),
        *("ingressRate", "ingressBurst", "egressRate", "egressBurst", "shapedSubnets", "unshapedSubnets"),
        *("subnet", "rangeStart", "rangeEnd", "gateway"),
        *("servers", "searches", "options"),
    )
}


def _as_documented(value: Any) -> Any:
    """A capability argument with its members' names as the conventions write them."""
    if isinstance(value, list):
        return [_as_documented(item) for item in value]
    if isinstance(value, dict):
        return {_RUNTIME_KEYS.get(key.lower(), key): _as_documented(item) for key, item in value.items()}
    return value


def _explain_to_a_person(plugin: Plugin) -> None:
    versions = ", ".join(VERSIONS)
    _write(2, f"CNI {plugin.name} plugin of podling\nCNI protocol versions supported: {versions}\n")


def _answer(reply: dict[str, Any] | None, status: int = 0) -> None:
    """Print and leave at once: the interpreter's own farewell takes 3 ms and has nothing to clean up."""
    if reply is not None:
        _write(1, jsontext.dumps(reply) + "\n")
    os._exit(status)


def _write(fd: int, text: str) -> None:
    rest = text.encode()
    while rest:
        rest = rest[os.write(fd, rest) :]


__all__ = ["Plugin", "args_from_environment", "check_args", "guard", "main", "open_sandbox", "run"]
