"""What chained and IPAM plugins share: reading objects inside a configuration, and prevResult.

`Keys` is to any JSON object what `podling.cni.plugins.options.Options` is to a whole configuration.
"""

from __future__ import annotations

from podling.cni.types import KERNEL_REFUSED, Args, CNIError, ConfigError, IPConfig, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")

_KINDS = {bool: "true or false", int: "a number", str: "a string", dict: "an object", list: "a list"}


class Keys:
    """The keys of one JSON object. `fault` notes what is wrong; `done` raises it, all of it."""

    def __init__(self, plugin: str, raw: Mapping[str, Any], path: str = "") -> None:
        self._plugin, self._raw, self._path = plugin, raw, path
        self.faults: list[str] = []

    def get(self, key: str, kind: type[T], default: T) -> T:
        """The value; the default when it is absent or null, and (with a fault) when it is of another type."""
        value = self._raw.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(f"{self._path}{key}: must be {_KINDS[kind]}, not {value!r}")
            return default
        if kind is str and "\0" in str(value):  # no name of a file or link, and no text of a rule
            self.fault(f"{self._path}{key}: must not contain a NUL character")
            return default
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """The value, or None: for options whose absence means something else than any value."""
        return None if self._raw.get(key) is None else self.get(key, kind, kind())

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            self.fault(f"{self._path}{key}: must be a list of strings")
            return ()
        return tuple(values)

    def part(self, key: str) -> Keys:
        """An object inside this one; its faults are ours."""
        inner = Keys(self._plugin, self.get(key, dict, {}), f"{self._path}{key}.")
        inner.faults = self.faults
        return inner

    def fault(self, words: str) -> None:
        self.faults.append(words)

    def done(self) -> None:
        if self.faults:
            raise ConfigError(f"invalid {self._plugin} configuration: " + "; ".join(self.faults))


def chained_result(args: Args, words: str = "must be called as chained plugin") -> Result:
    """prevResult, which every plugin that is not the first in its chain needs."""
    previous = args.prev_result()
    if previous is None:
        raise ConfigError(words, "prevResult is missing: put the plugin behind another one in a list")
    return previous


def container_ips(previous: Result, ifname: str) -> list[IPConfig]:
    """Addresses of the result on the container's interface, and those that name no interface."""
    found = []
    for ip in previous.ips:
        if ip.interface is not None and 0 <= ip.interface < len(previous.interfaces):
            interface = previous.interfaces[ip.interface]
            if interface.name != ifname or not interface.sandbox:
                continue
        found.append(ip)
    return found


def unsupported_kernel(plugin: str, what: str, option: str) -> CNIError:
    """The error for a kernel without a driver: it names the feature and the build option."""
    return CNIError(KERNEL_REFUSED, f"{plugin}: this kernel has no {what}", f"it needs {option}")
