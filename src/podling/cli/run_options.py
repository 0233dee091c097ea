"""What the values of docker's options mean: for `podling run`, `podling exec` and `podling pod create`.

Each function takes the text of one option. Refusals have docker's words and exit code.
"""

from __future__ import annotations

import ipaddress
import os
import re
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podling.cli.byhand import Refused
from podling.cli.options import Decorated

if TYPE_CHECKING:
    from podling.runtime.byhand.settings import Extras, Port, Restart, Ulimit
    from podling.runtime.cri import messages as cri

PORT_MAX = 65535
MOUNT_MODES = {"ro", "rw", "z", "Z", "rslave", "slave", "rshared", "shared", "rprivate", "private"}
MEMORY_MIN = 6 << 20
"""Docker's: with less a container does not come to its first instruction."""
HOST_GATEWAY = "host-gateway"


def refuse(option: str, text: str, why: str) -> Refused:
    return Refused(f'invalid argument "{text}" for "{option}": {why}', 125)


def publishing(function: Decorated) -> Decorated:
    """Options of what has a network: a container or a pod."""
    for option in (
        click.option(
            "-p", "--publish", multiple=True, metavar="[IP:]HOST:PORT[/PROTO]", help="Publish a port."
        ),
        click.option("--network", "--net", default="", help="A network, host, none or container:NAME."),
        click.option("-h", "--hostname", default="", help="The host name inside."),
        click.option("--ip", default="", help="An address of the network's."),
        click.option("--mac-address", default="", help="Of its interface."),
        click.option("--add-host", multiple=True, metavar="NAME:ADDRESS", help="A line for /etc/hosts."),
        click.option("--dns", multiple=True, help="A name server, instead of the machine's."),
        click.option("--dns-search", multiple=True, help="A search domain."),
        click.option("--dns-option", "--dns-opt", multiple=True, help="An option of resolv.conf."),
        click.option("--sysctl", multiple=True, metavar="NAME=VALUE", help="A kernel parameter inside."),
        click.option("--shm-size", default="", help="Size of /dev/shm, as 64m."),
        click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Set a label."),
    ):
        function = option(function)
    return function


def extras(options: dict[str, Any]) -> Extras:
    """Of `publishing`, and of `podling run` alone."""
    from podling.runtime.byhand.settings import Extras

    return Extras(
        tmpfs=dict(tmpfs(text) for text in options.get("tmpfs", ())),
        ulimits=[ulimit(text) for text in options.get("ulimit", ())],
        sysctls=dict(sysctl(text) for text in options["sysctl"]),
        pids_limit=max(0, options.get("pids_limit", 0)),
        shm_bytes=size("--shm-size", options["shm_size"]),
        dns=dns(options["dns"], options["dns_search"], options["dns_option"]),
        hosts=[host(text) for text in options["add_host"]],
        ip=address("--ip", options["ip"]),
        mac=mac(options["mac_address"]),
        log_max_bytes=log_max(options.get("log_opt", ())),
    )


def directory(text: str) -> str:
    if text and not text.startswith("/"):
        raise Refused(f"the working directory '{text}' is invalid, it needs to be an absolute path", 125)
    return text


def capabilities(option: str, names: Iterable[str]) -> list[str]:
    """With or without CAP_; ALL is all. A name that the kernel does not have would give, or take, nothing."""
    from podling.runtime.host import CAPABILITIES

    for name in names:
        bare = name.upper().removeprefix("CAP_")
        if bare != "ALL" and bare not in CAPABILITIES:
            raise Refused(f'invalid {option}: unknown capability: "CAP_{bare}"', 125)
    return list(names)


# environment and labels


def environment(given: Iterable[str], files: Iterable[str] = ()) -> list[str]:
    """`-e` wins over `--env-file`."""
    lines = [line for path in files for line in _env_lines(path)]
    return [entry for text in [*lines, *given] for entry in env(text)]


def env(text: str) -> list[str]:
    """A name alone takes our own value, and says nothing when we have none."""
    if not text or text.startswith("="):
        raise refuse("-e, --env", text, "invalid environment variable")
    if "=" in text:
        return [text]
    return [f"{text}={os.environ[text]}"] if text in os.environ else []


def _env_lines(path: str) -> list[str]:
    """Blank lines and comments are left out; nothing is unquoted, as docker has it."""
    try:
        lines = [line.lstrip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror.lower() if isinstance(err, OSError) and err.strerror else str(err)
        raise Refused(f"open {path}: {why}", 125) from err
    wanted = [line for line in lines if line and not line.startswith("#")]
    for line in wanted:
        name = line.partition("=")[0]
        if not name or re.search(r"\s", name):
            raise Refused(f"invalid env file ({path}): variable '{name}' contains whitespaces", 125)
    return wanted


def label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


# mounts and devices


def mount(text: str) -> cri.Mount:
    from podling.runtime.cri import messages as cri

    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    modes = set(mode.split(",")) - {""}
    if not source or not target.startswith("/"):
        raise refuse("-v, --volume", text, "must be HOST:PATH[:ro], and PATH absolute")
    if unknown := modes - MOUNT_MODES:
        raise refuse("-v, --volume", text, f"invalid mode: {', '.join(sorted(unknown))}")
    if "/" not in source:
        raise refuse("-v, --volume", text, "named volumes are not there; give a path, as ./data")
    propagation = cri.MountPropagation.PROPAGATION_PRIVATE
    if modes & {"rslave", "slave"}:
        propagation = cri.MountPropagation.PROPAGATION_HOST_TO_CONTAINER
    if modes & {"rshared", "shared"}:
        propagation = cri.MountPropagation.PROPAGATION_BIDIRECTIONAL
    return cri.Mount(
        host_path=str(Path(source).absolute()),
        container_path=target,
        readonly="ro" in modes,
        propagation=propagation,
    )


def tmpfs(text: str) -> tuple[str, str]:
    path, _, options = text.partition(":")
    if not path.startswith("/"):
        raise refuse("--tmpfs", text, f"invalid mount path: '{path}' mount path must be absolute")
    return os.path.normpath(path), options


def device(text: str) -> cri.Device:
    from podling.runtime.cri import messages as cri

    host, *rest = text.split(":")
    access = rest.pop() if rest and re.fullmatch("[rwm]{1,3}", rest[-1]) else "rwm"
    target = rest[0] if rest else host
    if not host.startswith("/") or not target.startswith("/") or len(rest) > 1:
        raise refuse("--device", text, f"bad format for path: {text}")
    return cri.Device(host_path=host, container_path=target, permissions=access)


# limits


def size(option: str, text: str) -> int:
    """Bytes; `64m`, `1.5g`, `10kb`."""
    if not text:
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmgt]?)(?:i?b)?", text.lower())
    if not found:
        raise refuse(option, text, f"invalid size: '{text}'")
    return int(float(found[1]) * (1 << 10 * "bkmgt".index(found[2] or "b")))


def memory(text: str) -> int:
    found = size("-m, --memory", text)
    if 0 < found < MEMORY_MIN:
        raise Refused("Minimum memory limit allowed is 6MB", 125)
    return found


def swap(text: str, memory: int) -> int:
    """`--memory-swap`: memory and swap together; -1 for no limit."""
    if text == "-1":
        return -1
    total = size("--memory-swap", text)
    if total and not memory:
        raise Refused("You should always set the Memory limit when using Memoryswap limit", 125)
    if total and total < memory:
        raise Refused("Minimum memoryswap limit should be larger than memory limit", 125)
    return total


def ulimit(text: str) -> Ulimit:
    from podling.runtime.byhand.settings import Ulimit

    name, _, values = text.partition("=")
    numbers = values.split(":")
    if f"RLIMIT_{name.upper()}" not in dir(resource):
        raise refuse("--ulimit", text, f"invalid ulimit type: {name}")
    if not 1 <= len(numbers) <= 2 or not all(re.fullmatch(r"-1|\d+", number) for number in numbers):
        raise refuse("--ulimit", text, f"invalid ulimit argument: {text}")
    soft, hard = int(numbers[0]), int(numbers[-1])
    if hard >= 0 and (soft > hard or soft < 0):
        raise refuse(
            "--ulimit", text, f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )
    return Ulimit(name=name, soft=soft, hard=hard)


def sysctl(text: str) -> tuple[str, str]:
    """Only those a container has of its own."""
    name, equals, value = text.partition("=")
    own = name.startswith(("net.", "fs.mqueue.")) or name in {
        *(f"kernel.{rest}" for rest in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")),
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    }
    if not equals or not own:
        raise refuse("--sysctl", text, f"sysctl '{text}' is not allowed")
    return name, value


def security(options: Sequence[str], context: cri.LinuxContainerSecurityContext) -> None:
    """`--security-opt`: written into the context."""
    from podling.runtime.cri import messages as cri

    for text in options:
        key, separator, value = text.partition("=" if "=" in text else ":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            context.no_new_privs = value != "false"
        elif key == "seccomp" and value == "unconfined":
            kind = cri.SecurityProfileType.Unconfined
            context.seccomp = cri.SecurityProfile(profile_type=kind)
        elif key == "seccomp" and value:
            kind = cri.SecurityProfileType.Localhost
            path = str(Path(value).absolute())
            context.seccomp = cri.SecurityProfile(profile_type=kind, localhost_ref=path)
        elif (key, value) in (("apparmor", "unconfined"), ("label", "disable")):
            continue  # as it is
        elif separator and key in ("apparmor", "label", "systempaths"):
            raise Refused(f"invalid --security-opt: {text!r} is not there yet", 125)
        else:
            raise Refused(f"invalid --security-opt: {text!r}", 125)


def stop_signal(text: str) -> str:
    from podling.runtime.container_create import InvalidSignalError, signal_number

    try:
        if text:
            signal_number(text)
    except InvalidSignalError:
        raise Refused(f"invalid signal: {text}", 125) from None
    return text


# network


def port(text: str) -> Port:
    from podling.runtime.byhand.network import free_port
    from podling.runtime.byhand.settings import Port

    where, _, protocol = text.partition("/")
    *front, container = where.rsplit(":", 2)
    host_ip, host = (front[0], front[1]) if len(front) == 2 else ("", front[0] if front else "")
    if not _number(container) or (host and not _number(host)):
        raise refuse("-p, --publish", text, f"invalid containerPort or hostPort: {where}")
    if protocol not in ("", "tcp", "udp", "sctp"):
        raise refuse("-p, --publish", text, f"invalid proto: {protocol}")
    if host_ip:
        address("-p, --publish", host_ip)
    wanted = Port(
        host_ip=host_ip, host_port=int(host or 0), container_port=int(container), protocol=protocol or "tcp"
    )
    if wanted.host_port:
        return wanted
    return Port(
        host_ip=host_ip,
        host_port=free_port(wanted),
        container_port=wanted.container_port,
        protocol=wanted.protocol,
    )


def _number(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= PORT_MAX


def network(mode: str) -> str:
    from podling.runtime.byhand.settings import DEFAULT_NETWORK

    return DEFAULT_NETWORK if mode in ("", "default", "bridge") else mode


def mode(text: str, what: str) -> str:
    if text in ("", "host") or (text.startswith("container:") and text != "container:"):
        return text
    raise Refused(f"invalid {what} mode: {text}", 125)


def address(option: str, text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text)) if text else ""
    except ValueError:
        raise refuse(option, text, f"invalid IPv4 address: {text}") from None


def mac(text: str) -> str:
    if text and not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text):
        raise refuse("--mac-address", text, f"{text} is not a valid mac address")
    return text.replace("-", ":").lower()


def host(text: str) -> tuple[str, str]:
    """`--add-host NAME:ADDRESS`; as (address, name)."""
    separator = "=" if "=" in text else ":"
    name, _, where = text.partition(separator)
    if not name:
        raise refuse("--add-host", text, f'bad format for add-host: "{text}"')
    try:
        return str(ipaddress.ip_address(where.strip("[]"))), name
    except ValueError:
        if where == HOST_GATEWAY:
            raise refuse("--add-host", text, "host-gateway is not there; give an address") from None
        raise refuse("--add-host", text, f"invalid IP address in add-host: {where!r}") from None


def dns(servers: Sequence[str], searches: Sequence[str], options: Sequence[str]) -> cri.DNSConfig | None:
    """None: the machine's resolver. What is not said is taken from it, as docker does."""
    from podling.runtime.cri import messages as cri
    from podling.runtime.sandbox_files import RESOLV_CONF

    if not (servers or searches or options):
        return None
    for server in servers:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise refuse("--dns", server, f"{server} is not an ip address") from None
    own: dict[str, list[str]] = {"nameserver": [], "search": []}
    for line in Path(RESOLV_CONF).read_text().splitlines() if Path(RESOLV_CONF).exists() else ():
        key, *words = line.split() or [""]
        own.get(key, []).extend(words)
    return cri.DNSConfig(
        servers=list(servers) or own["nameserver"],
        searches=[] if list(searches) == ["."] else list(searches) or own["search"],
        options=list(options),
    )


# life


def restart(text: str) -> Restart:
    from podling.runtime.byhand.settings import Restart

    policy, _, retries = text.partition(":")
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise Refused(f"invalid restart policy: unknown policy '{policy}'", 125)
    if retries and (policy != "on-failure" or not retries.isdecimal()):
        raise Refused(f"invalid restart policy: maximum retry count cannot be used with {text!r}", 125)
    return Restart(policy=policy, retries=int(retries or 0))


def log_max(options: Sequence[str]) -> int:
    """`--log-opt max-size=10m`: then the log begins anew."""
    found = 0
    for text in options:
        key, _, value = text.partition("=")
        if key != "max-size":
            raise Refused(f"unknown log opt '{key}' for cri log driver: only max-size", 125)
        found = size("--log-opt", value)
    return found
