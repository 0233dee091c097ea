"""dhcp: addresses from a DHCP server of the network the container is attached to.

The plugin only asks; a daemon (`dhcp daemon`, see `dhcp_daemon`) gets the lease over the container's own
interface and renews it until DEL gives it back. The interface must exist by then: plugins that call this one
make it first. Without the daemon every command but DEL says so.

`ipam.request` and `ipam.provide` choose what is asked for and told, as in the reference plugin's
documentation; `ipam.daemonSocketPath` is where the daemon listens; `ipam.priority` becomes the metric of the
routes.
"""

from __future__ import annotations

import ipaddress
import os

from podling.cni import jsontext
from podling.cni.plugins import skel
from podling.cni.plugins.ipam import dhcp_packet as packet
from podling.cni.plugins.meta.chained import Keys
from podling.cni.types import (
    CHECK_FAILED,
    DNS,
    IO_FAILURE,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    Args,
    CNIError,
    ConfigError,
    IPConfig,
    Result,
)
from podling.linux.netlink import Netlink
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/run/cni/dhcp.sock"
TIMEOUT_S = 100.0  # the daemon has its own, shorter one
CLIENT_ID_MAX = 254  # bytes

# Names of the reference plugin's documentation; any other option is named by its number.
OPTION_NAMES = {
    "dhcp-client-identifier": packet.CLIENT_ID,
    "subnet-mask": packet.SUBNET_MASK,
    "routers": packet.ROUTER,
    "host-name": packet.HOST_NAME,
    "user-class": packet.USER_CLASS,
    "vendor-class-identifier": packet.VENDOR_CLASS,
}
REQUESTED = (
    packet.SUBNET_MASK,
    packet.CLASSLESS_ROUTES,
    packet.ROUTER,
    packet.STATIC_ROUTE,
    packet.DNS_SERVER,
    packet.DOMAIN_NAME,
    packet.LEASE_TIME,
    packet.RENEWAL_TIME,
    packet.REBINDING_TIME,
)


@record
class DHCPConf:
    socket_path: str
    options: dict[int, bytes]  # sent with every message
    priority: int = 0


def _parse(args: Args) -> DHCPConf:
    if not isinstance(args.conf.get("ipam"), dict):
        raise ConfigError("IPAM config missing 'ipam' key")
    keys = Keys("dhcp", args.conf)
    ipam = keys.part("ipam")
    conf = DHCPConf(
        socket_path=ipam.get("daemonSocketPath", str, "") or DEFAULT_SOCKET,
        options=_options(args, ipam),
        priority=ipam.get("priority", int, 0),
    )
    keys.done()
    return conf


def _options(args: Args, ipam: Keys) -> dict[int, bytes]:
    client_id = f"{args.container_id}/{args.name}/{args.ifname}".encode()[:CLIENT_ID_MAX]
    options = {packet.CLIENT_ID: b"\0" + client_id}
    for raw in ipam.get("provide", list, []):
        code = _option(ipam, raw)
        value = raw.get("value") if isinstance(raw, dict) else None
        from_arg = raw.get("fromArg") if isinstance(raw, dict) else None
        if from_arg:
            value = args.cni_args.get(str(from_arg), value)
        if code is not None and value:
            options[code] = _provided(code, str(value))
    requested = list(REQUESTED)
    for raw in ipam.get("request", list, []):
        if isinstance(raw, dict) and raw.get("skipDefault") is True:
            requested = []
    for raw in ipam.get("request", list, []):
        if isinstance(raw, dict) and "option" not in raw and "skipDefault" in raw:
            continue
        code = _option(ipam, raw)
        if code is not None and code not in requested:
            requested.append(code)
    return options | {packet.PARAMETER_LIST: bytes(requested)}


def _provided(code: int, value: str) -> bytes:
    if code == packet.CLIENT_ID:
        return b"\0" + value.encode()[:CLIENT_ID_MAX]
    if code == packet.USER_CLASS:  # a list of strings with lengths (RFC 3004)
        return bytes((min(len(value.encode()), 255),)) + value.encode()[:255]
    return value.encode()


def _option(ipam: Keys, raw: Any) -> int | None:
    name = raw.get("option") if isinstance(raw, dict) else None
    code = OPTION_NAMES.get(str(name))
    if code is None and str(name).isdigit() and 0 < int(str(name)) < 255:
        code = int(str(name))
    if code is None:
        ipam.fault(f"cannot parse option {name!r}: {', '.join(OPTION_NAMES)}, or a number from 1 to 254")
    return code


# --- the daemon


def _call(conf: DHCPConf, method: str, key: str, **more: Any) -> dict[str, Any]:
    """`CNIError` NOT_AVAILABLE without the daemon, TRY_AGAIN_LATER when it gets no lease."""
    import _socket  # the daemon's side needs `socket`; this one must start fast

    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        client.settimeout(TIMEOUT_S)
        try:
            client.connect(conf.socket_path)
        except OSError as err:
            raise CNIError(
                NOT_AVAILABLE,
                f"error dialing DHCP daemon: dial unix {conf.socket_path}: {err.strerror}",
                "start it with: dhcp daemon",
            ) from err
        client.sendall(jsontext.dumps({"method": method, "key": key, **more}).encode())
        client.shutdown(_socket.SHUT_WR)
        data = b""
        while chunk := client.recv(65536):
            data += chunk
        reply = jsontext.loads(data)
    except TimeoutError as err:
        raise CNIError(TRY_AGAIN_LATER, f"the DHCP daemon does not answer in {TIMEOUT_S:g} s") from err
    except (OSError, ValueError) as err:
        raise CNIError(IO_FAILURE, f"error talking to the DHCP daemon: {err}") from err
    finally:
        client.close()
    if "error" in reply:
        raise CNIError(TRY_AGAIN_LATER, f"error calling DHCP.{method.capitalize()}: {reply['error']}")
    result: dict[str, Any] = reply["result"]
    return result


def _key(args: Args) -> str:
    return f"{args.container_id}/{args.name}/{args.ifname}"


def _result(conf: DHCPConf, reply: dict[str, Any]) -> Result:
    options = {int(code): bytes.fromhex(value) for code, value in reply["options"].items()}
    length = packet.prefix_length(options.get(packet.SUBNET_MASK))
    routers = packet.addresses(options.get(packet.ROUTER, b""))
    routes = packet.routes(options)
    if conf.priority:
        routes = tuple(replace(route, priority=conf.priority) for route in routes)
    return Result(
        ips=(
            IPConfig(
                address=ipaddress.ip_interface(f"{reply['address']}/{length}"),
                gateway=routers[0] if routers else None,
            ),
        ),
        routes=routes,
        dns=DNS(
            nameservers=tuple(map(str, packet.addresses(options.get(packet.DNS_SERVER, b"")))),
            domain=options.get(packet.DOMAIN_NAME, b"").rstrip(b"\0").decode(errors="replace"),
        ),
    )


# --- commands


def _add(args: Args) -> Result:
    conf = _parse(args)
    options = {str(code): value.hex() for code, value in conf.options.items()}
    # The daemon may have another working directory.
    netns = os.path.abspath(args.netns)
    more = {"netns": netns, "ifname": args.ifname, "options": options}
    return _result(conf, _call(conf, "allocate", _key(args), **more))


def _delete(args: Args) -> None:
    """Without a daemon there is nobody who could hold a lease; it expires by itself."""
    conf = _parse(args)
    try:
        _call(conf, "release", _key(args))
    except CNIError as err:
        if err.code != NOT_AVAILABLE:
            raise


def _check(args: Args) -> None:
    conf = _parse(args)
    try:
        lease = _result(conf, _call(conf, "check", _key(args)))
    except CNIError as err:
        if err.code != TRY_AGAIN_LATER:
            raise
        raise CNIError(CHECK_FAILED, err.message) from err
    with Netlink(args.netns) as nl:
        present = {address.interface for address in nl.addr_list(args.ifname)}
    if lease.ips[0].address not in present:
        raise CNIError(CHECK_FAILED, f"the leased address {lease.ips[0].address} is gone from {args.ifname}")


def _status(args: Args) -> None:
    _call(_parse(args), "status", "")


def _gc(args: Args) -> None:
    valid = [f"{container_id}/{args.name}/{ifname}" for container_id, ifname in args.valid_attachments]
    _call(_parse(args), "gc", args.name, valid=valid)


def _daemon(arguments: list[str]) -> int:
    from podling.cni.plugins.ipam.dhcp_daemon import main

    return main(arguments)


PLUGIN = skel.Plugin(
    name="dhcp", add=_add, delete=_delete, check=_check, status=_status, gc=_gc, daemon=_daemon
)
