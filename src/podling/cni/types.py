"""What the CNI library and its plugins exchange: arguments, results and errors (CNI spec 1.1).

Results are held in one form, that of the newest version, and written in the form of whatever version a
configuration asks for. This module is all that a plugin needs besides `podling.linux`; like it, it is quick
to import because plugins also run as programs.

Errors:

    CNIError            a code of the spec's table ("Well-known error codes"), a message, details
    - ConfigError       INVALID_CONFIG with the file, when it came from one
    - UnknownContainer  CONTAINER_UNKNOWN
"""

from __future__ import annotations

import ipaddress

from podling.linux.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
UNNAMED = VERSIONS[0]  # what a document without cniVersion is (CNI spec 0.2.0)

# CNI spec, "Well-known error codes"; from 100 on they are a plugin's own. 999 is what the reference plugins
# give to everything they have no code for.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
CONTAINER_UNKNOWN = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
ADDRESSES_EXHAUSTED = 100
KERNEL_REFUSED = 101
PLUGIN_FAILED = 102  # a plugin ended without a readable answer
PLUGIN_TIMEOUT = 103
CHECK_FAILED = 104
ALREADY_ALLOCATED = 105
INTERNAL = 999


class CNIError(Exception):
    """A refusal in the terms of the spec; `details` says what to do or what lies behind it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message + (f"; {details}" if details else ""))
        self.code = code
        self.message = message
        self.details = details

    def to_json(self, version: str = NEWEST) -> dict[str, Any]:
        """CNI spec, "Error"."""
        reply: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.message}
        return reply | ({"details": self.details} if self.details else {})


class ConfigError(CNIError):
    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(INVALID_CONFIG, message, details)


class UnknownContainer(CNIError):
    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(CONTAINER_UNKNOWN, message, details)


@record
class Args:
    """One call of a plugin (CNI spec, "Parameters"): the environment, and the configuration from stdin."""

    command: str  # ADD, DEL, CHECK, GC, STATUS, VERSION
    container_id: str
    netns: str  # a path; may be empty or gone on DEL
    ifname: str
    args: str  # CNI_ARGS: "KEY=value;KEY2=value2"
    path: tuple[str, ...]  # CNI_PATH: where to find other plugins
    conf: Mapping[str, Any]

    @property
    def cni_args(self) -> dict[str, str]:
        return dict(parse_args(self.args))

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.conf.get("name", ""))

    @property
    def version(self) -> str:
        return str(self.conf.get("cniVersion") or UNNAMED)

    @property
    def valid_attachments(self) -> set[tuple[str, str]]:
        """For GC: (container ID, interface name) of what is still in use."""
        listed = self.conf.get("cni.dev/valid-attachments") or ()
        return {(str(one.get("containerID")), str(one.get("ifname"))) for one in listed}

    def prev_result(self) -> Result | None:
        previous = self.conf.get("prevResult")
        return Result.from_json(previous, self.version) if previous else None


def parse_args(text: str) -> list[tuple[str, str]]:
    """CNI_ARGS as pairs. `CNIError` INVALID_ENVIRONMENT for a part without `=`."""
    pairs = []
    for part in text.split(";") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise CNIError(
                INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {part!r}", "write KEY=value;KEY2=value2"
            )
        pairs.append((key, value))
    return pairs


@record
class Interface:
    """A link made or used by a plugin."""

    name: str
    mac: str = ""
    sandbox: str = ""  # the path of its network namespace; empty: the host's
    mtu: int = 0  # from 1.1.0 on
    socket_path: str = ""
    pci_id: str = ""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Interface:
        return cls(
            name=str(raw.get("name", "")),
            mac=str(raw.get("mac", "")),
            sandbox=str(raw.get("sandbox", "")),
            mtu=_number(raw.get("mtu")) or 0,
            socket_path=str(raw.get("socketPath", "")),
            pci_id=str(raw.get("pciID", "")),
        )

    def to_json(self, version: str) -> dict[str, Any]:
        text: dict[str, Any] = {"name": self.name}
        text |= _set(mac=self.mac)
        if version == "1.1.0":
            text |= _set(mtu=self.mtu)
        text |= _set(sandbox=self.sandbox)
        if version == "1.1.0":
            text |= _set(socketPath=self.socket_path, pciID=self.pci_id)
        return text


@record
class IPConfig:
    """An address given to an interface."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None  # index into `Result.interfaces`

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> IPConfig:
        gateway = raw.get("gateway")
        return cls(
            address=ipaddress.ip_interface(_text(raw["address"])),
            gateway=ipaddress.ip_address(_text(gateway)) if gateway else None,
            interface=_number(raw.get("interface")),
        )

    def to_json(self, version: str) -> dict[str, Any]:
        text: dict[str, Any] = {}
        if version < "1.0.0":
            text["version"] = str(self.address.version)
        if self.interface is not None:
            text["interface"] = self.interface
        return text | {"address": str(self.address)} | _set(gateway=str(self.gateway or ""))


@record
class CNIRoute:
    """A route inside the container. What is None is left to the plugin."""

    dst: IPNetwork
    gw: IPAddress | None = None
    mtu: int | None = None  # bytes; these five from 1.1.0 on
    advmss: int | None = None  # bytes
    priority: int | None = None
    table: int | None = None
    scope: int | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> CNIRoute:
        gw = raw.get("gw")
        return cls(
            dst=ipaddress.ip_network(_text(raw["dst"]), strict=False),
            gw=ipaddress.ip_address(_text(gw)) if gw else None,
            **{key: _number(raw.get(key)) for key in ("mtu", "advmss", "priority", "table", "scope")},
        )

    def to_json(self, version: str) -> dict[str, Any]:
        text: dict[str, Any] = {"dst": str(self.dst)} | _set(gw=str(self.gw or ""))
        if version == "1.1.0":
            for key in ("mtu", "advmss", "priority", "table", "scope"):
                if (value := getattr(self, key)) is not None:
                    text[key] = value
        return text


@record
class DNS:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> DNS:
        return cls(
            nameservers=_texts(raw.get("nameservers")),
            domain=str(raw.get("domain", "")),
            search=_texts(raw.get("search")),
            options=_texts(raw.get("options")),
        )

    def to_json(self) -> dict[str, Any]:
        return _set(
            nameservers=list(self.nameservers),
            domain=self.domain,
            search=list(self.search),
            options=list(self.options),
        )

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


@record
class Result:
    """CNI spec, "Success": what an ADD has made."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[CNIRoute, ...] = ()
    dns: DNS = DNS()

    @classmethod
    def from_json(cls, raw: Any, version: str = UNNAMED) -> Result:
        """Read a result of any version; `version` is that of the call, for one that names none.

        `CNIError` DECODING_FAILURE says what is wrong.
        """
        if not isinstance(raw, dict):
            raise CNIError(DECODING_FAILURE, f"a result must be a JSON object, not {type(raw).__name__}")
        version = str(raw.get("cniVersion") or version)
        if version not in VERSIONS:
            raise CNIError(INCOMPATIBLE_VERSION, f"cannot read a result of CNI version {version}")
        try:
            dns = DNS.from_json(raw.get("dns") or {})
            if version < "0.3.0":
                return _from_old_json(raw, dns)
            return cls(
                interfaces=tuple(map(Interface.from_json, raw.get("interfaces") or ())),
                ips=tuple(map(IPConfig.from_json, raw.get("ips") or ())),
                routes=tuple(map(CNIRoute.from_json, raw.get("routes") or ())),
                dns=dns,
            )
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as err:
            reason = f"missing key {err}" if isinstance(err, KeyError) else str(err)
            raise CNIError(DECODING_FAILURE, f"invalid result: {reason}") from err

    def to_json(self, version: str) -> dict[str, Any]:
        """In the form of `version`, which must be one of `VERSIONS`.

        `CNIError` INCOMPATIBLE_VERSION when it cannot be told in that form: before 0.3.0 there are no
        interfaces, at most one address of each family, and at least one.
        """
        text: dict[str, Any] = {"cniVersion": version}
        if version < "0.3.0":
            return text | _old_json(self) | {"dns": self.dns.to_json()}
        if self.interfaces:
            text["interfaces"] = [interface.to_json(version) for interface in self.interfaces]
        if self.ips:
            text["ips"] = [ip.to_json(version) for ip in self.ips]
        if self.routes:
            text["routes"] = [route.to_json(version) for route in self.routes]
        return text | {"dns": self.dns.to_json()}

    def addresses_of(self, ifname: str) -> list[IPInterface]:
        """The addresses inside the container on `ifname`, first one first: the pod's IPs."""
        return [
            ip.address
            for ip in self.ips
            if ip.interface is None
            or (
                0 <= ip.interface < len(self.interfaces)
                and self.interfaces[ip.interface].name == ifname
                and self.interfaces[ip.interface].sandbox
            )
        ]


_OLD_KEYS = {4: "ip4", 6: "ip6"}


def _from_old_json(raw: Mapping[str, Any], dns: DNS) -> Result:
    """CNI spec 0.2.0, "Result": an address of each family, with its routes."""
    parts = [part for key in _OLD_KEYS.values() if (part := raw.get(key))]
    return Result(
        ips=tuple(
            IPConfig.from_json({"address": part["ip"], "gateway": part.get("gateway")}) for part in parts
        ),
        routes=tuple(CNIRoute.from_json(route) for part in parts for route in part.get("routes") or ()),
        dns=dns,
    )


def _old_json(result: Result) -> dict[str, Any]:
    text: dict[str, Any] = {}
    for version, key in _OLD_KEYS.items():
        ip = next((ip for ip in result.ips if ip.address.version == version), None)
        if ip is not None:
            routes = [route.to_json("0.2.0") for route in result.routes if route.dst.version == version]
            text[key] = {"ip": str(ip.address)} | _set(gateway=str(ip.gateway or ""), routes=routes)
    if not text:
        raise CNIError(
            INCOMPATIBLE_VERSION, "cannot convert: no valid IP addresses", "use version 0.3.0 or newer"
        )
    return text


def _text(value: Any) -> str:
    # `ipaddress` would take numbers too.
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | None):
        raise TypeError(f"{values!r} is not a list")
    return tuple(map(_text, values or ()))


def _number(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"{value!r} is not a number")
    return value


def _set(**fields: Any) -> dict[str, Any]:
    """The fields that are not empty."""
    return {key: value for key, value in fields.items() if value}
