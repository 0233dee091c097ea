"""Reading a plugin's options from its configuration; all faults are reported at once.

options = Options(args)
mtu = options.get("mtu", int, 0)
options.refuse(mtu < 0, f"invalid MTU {mtu}")
options.end("ptp")  # raises ConfigError with everything that is wrong
"""

from __future__ import annotations

from podling.cni.types import DNS, ConfigError
from podling.linux.netlink.wire import mac_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from podling.cni.types import Args

    T = TypeVar("T")

_KINDS = {bool: "true or false", int: "a number", str: "a string", dict: "an object", list: "a list"}


class Options:
    """The options of one call. What is null counts as absent, as it does to the reference plugins."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._faults: list[str] = []

    def get(self, key: str, kind: type[T], default: T) -> T:
        """The option, or the default when it is absent or (a fault) of another type."""
        value = self._args.conf.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._faults.append(f"{key}: must be {_KINDS[kind]}, not {value!r}")
            return default
        return value

    def refuse(self, wrong: object, text: str) -> None:
        if wrong:
            self._faults.append(text)

    def end(self, plugin: str) -> None:
        """`ConfigError` when there was any fault."""
        if self._faults:
            raise ConfigError(f"invalid {plugin} configuration: " + "; ".join(self._faults))

    @property
    def ipam(self) -> str:
        """The IPAM plugin's type; empty when none is configured."""
        return str(self.get("ipam", dict, {}).get("type", ""))

    @property
    def dns(self) -> DNS:
        raw = self.get("dns", dict, {})
        lists = [raw.get(key) or [] for key in ("nameservers", "search", "options")]
        if any(not isinstance(one, list) or any(not isinstance(w, str) for w in one) for one in lists):
            self._faults.append("dns: nameservers, search and options must be lists of strings")
            return DNS()
        return DNS.from_json(raw)

    @property
    def mac(self) -> str:
        """The last one given counts: CNI_ARGS `MAC`, `args.cni.mac`, the capability `mac`."""
        raw: Any = self._args.conf
        runtime = (raw.get("runtimeConfig") or {}).get("mac")
        convention = ((raw.get("args") or {}).get("cni") or {}).get("mac")
        return str(runtime or convention or self._args.cni_args.get("MAC", ""))

    def valid_mac(self, default: str = "") -> str:
        """`mac`, or the default when none is asked for; a fault when that is no MAC address."""
        mac = self.mac or default
        if mac:
            try:
                mac_bytes(mac)
            except ValueError as err:
                self._faults.append(f"invalid mac: {err}")
        return mac
