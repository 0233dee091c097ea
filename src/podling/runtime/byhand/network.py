"""Networks of containers run by hand: each is a CNI configuration in a directory of its own.

    root_dir/networks/NAME/NAME.conflist      bridge (gateway, masquerade) with host-local, then portmap
    root_dir/networks/NAME/leases/            host-local's

The network `podling` is made when it is first used, as docker's `bridge` is there from the start. `host` and
`none` are modes, not networks, but are listed like networks.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podling.cni.install import install
from podling.cni.library import CNI
from podling.cni.types import CNIError
from podling.linux.netlink import Netlink
from podling.runtime.byhand.errors import HandError
from podling.runtime.byhand.hand import NAMES, Hand, Held
from podling.runtime.byhand.settings import DEFAULT_NETWORK, Extras, Port, joined
from podling.runtime.core import in_thread
from podling.runtime.state import remove_tree, write_whole
from podling.runtime.view import Seen, State

Network4 = ipaddress.IPv4Network

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
MODES = ("host", "none")
DEFAULT_SUBNETS = (Network4("10.88.0.0/16"), *(Network4(f"10.{n}.0.0/16") for n in range(101, 128)))
"""podman's, and what is tried when that is taken."""
OTHER_SUBNETS = tuple(Network4("10.89.0.0/16").subnets(new_prefix=24))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    name: str
    id: str
    bridge: str
    subnet: Network4
    gateway: ipaddress.IPv4Address
    internal: bool
    created: str


# making and finding


def find(hand: Hand, wanted: str) -> Network | None:
    """By name, id or id prefix."""
    known = list_networks(hand)
    exact = [one for one in known if wanted in (one.name, one.id)]
    prefixed = [one for one in known if wanted and one.id.startswith(wanted)]
    return next(iter(exact or (prefixed if len(prefixed) == 1 else [])), None)


def list_networks(hand: Hand) -> list[Network]:
    folders = sorted(hand.config.cni_conf_dir.glob("*/*.conflist"))
    return [network for path in folders if (network := _read(path)) is not None]


def _read(path: Path) -> Network | None:
    try:
        raw = json.loads(path.read_bytes())
        bridge, ours = raw["plugins"][0], raw["podling"]
        pool = bridge["ipam"]["ranges"][0][0]
        return Network(
            name=raw["name"].removeprefix("byhand-"),
            id=ours["id"],
            bridge=bridge["bridge"],
            subnet=Network4(pool["subnet"]),
            gateway=ipaddress.IPv4Address(pool["gateway"]),
            internal=not bridge["ipMasq"],
            created=ours["created"],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


async def create(
    hand: Hand, name: str, *, subnet: str = "", gateway: str = "", internal: bool = False
) -> Network:
    async with hand.lock(NAMES):
        return await in_thread(_create, hand, name, subnet, gateway, internal)


def _create(hand: Hand, name: str, subnet: str, gateway: str, internal: bool) -> Network:
    if not NAME.fullmatch(name):
        raise HandError(f"invalid network name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed")
    if name in MODES or find(hand, name) is not None:
        raise HandError(f"network with name {name} already exists")
    chosen = _subnet(hand, name, subnet)
    network_id = secrets.token_hex(32)
    network = Network(
        name=name,
        id=network_id,
        bridge=f"br-{network_id[:12]}",
        subnet=chosen,
        gateway=_gateway(chosen, gateway),
        internal=internal,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    folder = hand.config.cni_conf_dir / name
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = json.dumps(_conflist(folder, network), indent=2)
    write_whole(folder / f"{name}.conflist", f"{text}\n".encode(), 0o644)
    return network


def _conflist(folder: Path, network: Network) -> dict[str, Any]:
    pool = {"subnet": str(network.subnet), "gateway": str(network.gateway)}
    bridge = {
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": True,
        "isDefaultGateway": not network.internal,
        "ipMasq": not network.internal,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[pool]], "dataDir": str(folder / "leases")},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    return {
        "cniVersion": "1.0.0",
        # Not the bare name: a cluster's network may be called the same, and rules are known by it.
        "name": f"byhand-{network.name}",
        "plugins": [bridge, portmap],
        "podling": {"id": network.id, "created": network.created},
    }


def _subnet(hand: Hand, name: str, given: str) -> Network4:
    taken = [network.subnet for network in list_networks(hand)]
    if given:
        try:
            wanted = Network4(given)
        except ValueError as err:
            raise HandError(f"invalid subnet {given}: {err}") from err
        if wanted.prefixlen > 29:
            raise HandError(f"invalid subnet {given}: too small to hold containers")
        if any(wanted.overlaps(other) for other in taken):
            raise HandError("Pool overlaps with other one on this address space")
        return wanted
    with Netlink() as netlink:
        routed = [route.dst for route in netlink.route_list() if route.dst.prefixlen]
    taken += [dst for dst in routed if isinstance(dst, Network4)]
    for candidate in DEFAULT_SUBNETS if name == DEFAULT_NETWORK else OTHER_SUBNETS:
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise HandError("could not find an available, non-overlapping IPv4 address pool: say one with --subnet")


def _gateway(subnet: Network4, given: str) -> ipaddress.IPv4Address:
    try:
        address = ipaddress.IPv4Address(given) if given else subnet[1]
    except ValueError as err:
        raise HandError(f"invalid gateway {given}: {err}") from err
    if address not in subnet or address in (subnet[0], subnet[-1]):
        raise HandError(f"no matching subnet for gateway {address}")
    return address


async def remove(hand: Hand, wanted: str) -> str:
    """Its bridge, leases and configuration. Returns its name."""
    async with hand.lock(NAMES):
        if wanted in MODES:
            raise HandError(f"{wanted} is a pre-defined network and cannot be removed")
        network = find(hand, wanted)
        if network is None:
            raise HandError(f"network {wanted} not found")
        if users := [seen.name for seen in users_of(hand, network)]:
            names = ", ".join(users)
            raise HandError(
                f"error while removing network: network {network.name} has active endpoints: {names}"
            )
        await in_thread(_remove, hand, network)
        return network.name


async def prune(hand: Hand) -> list[str]:
    """Remove every network that no container, running or not, is for; returns their names."""
    async with hand.lock(NAMES):
        wanted = {seen.settings.network for seen in hand.view.all() if seen.settings}
        unused = [
            one for one in list_networks(hand) if one.name not in wanted and one.name != DEFAULT_NETWORK
        ]
        for network in unused:
            await in_thread(_remove, hand, network)
    return [network.name for network in unused]


def users_of(hand: Hand, network: Network) -> list[Seen]:
    """The containers that have an address of it now."""
    return [
        seen
        for seen in hand.view.all()
        if seen.settings and seen.settings.network == network.name and seen.settings.ips
    ]


def _remove(hand: Hand, network: Network) -> None:
    with Netlink() as netlink:
        netlink.link_del(network.bridge, missing_ok=True)
    remove_tree(hand.config.cni_conf_dir / network.name)


# attaching


def cni_of(hand: Hand, name: str) -> CNI:
    config = hand.config
    return CNI(config.cni_conf_dir / name, config.cni_bin_dirs, config.cni_cache_dir)


async def attach(hand: Hand, held: Held) -> None:
    """Wire the container's namespace. Nothing to do with `host`, `none` and `container:ID`."""
    settings = held.settings
    name = settings.network
    if not settings.netns or name in MODES or joined(name):
        return
    if find(hand, name) is None:
        if name != DEFAULT_NETWORK:
            raise HandError(f"network {name} not found")
        await _default(hand)
    await asyncio.to_thread(ensure_plugins, hand)
    async with hand.lock(NAMES):  # a port is given once
        await in_thread(_check_ports, hand, held)
        mappings = [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol,
                **({"hostIP": port.host_ip} if port.host_ip else {}),
            }
            for port in settings.ports
        ]
        capabilities = {"portMappings": mappings} if mappings else {}
        try:
            result = await cni_of(hand, name).add(
                held.id, settings.netns, args=_addresses(settings.extras), capability_args=capabilities
            )
        except CNIError as err:
            raise HandError(f"failed to set up container networking: {err}") from err
        settings.ips = [str(address.ip) for address in result.addresses_of("eth0")]
        hand.save(held)


def _addresses(extras: Extras) -> dict[str, str]:
    """CNI_ARGS of `--ip` and `--mac-address` (CNI conventions, "CNI_ARGS")."""
    wanted = {"IP": extras.ip, "MAC": extras.mac}
    return {key: value for key, value in wanted.items() if value}


async def _default(hand: Hand) -> None:
    async with hand.lock(NAMES):
        if find(hand, DEFAULT_NETWORK) is None:
            await in_thread(_create, hand, DEFAULT_NETWORK, "", "", False)


def ensure_plugins(hand: Hand) -> None:
    folder = hand.config.cni_bin_dirs[0]
    if not (folder / "portmap").exists():
        install(folder)


def _check_ports(hand: Hand, held: Held) -> None:
    """Raises `HandError` for a port that another container or program of this machine has."""
    taken = [
        port
        for seen in hand.view.all()
        if seen.settings and seen.state is State.RUNNING and seen.id != held.id
        for port in seen.settings.ports
    ]
    for port in held.settings.ports:
        where = f"{port.host_ip or '0.0.0.0'}:{port.host_port}"
        if any(_clash(port, other) for other in taken):
            raise HandError(
                f"failed to set up container networking: driver failed programming external connectivity "
                f"on endpoint {held.record.name}: Bind for {where} failed: port is already allocated"
            )
        try:
            free_port(port)
        except OSError as err:
            reason = {errno.EADDRINUSE: "address already in use"}.get(err.errno or 0, str(err.strerror))
            raise HandError(
                f"failed to set up container networking: driver failed programming external connectivity "
                f"on endpoint {held.record.name}: failed to bind host port for {where}: {reason}"
            ) from err


def _clash(one: Port, other: Port) -> bool:
    same = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    return same and (one.host_ip == other.host_ip or not one.host_ip or not other.host_ip)


def free_port(port: Port) -> int:
    """Bind the port for a moment; 0 finds a free one. Raises OSError."""
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}.get(port.protocol)
    if kind is None:
        return port.host_port
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not in use
        probe.bind((port.host_ip or "0.0.0.0", port.host_port))
        return int(probe.getsockname()[1])
