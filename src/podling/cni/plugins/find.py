"""Finding plugins, and knowing our own among them.

A plugin is an executable named after its type in a directory of CNI_PATH. Ours are small scripts written by
`podling.cni.install`, with a marker line. Whoever finds one may call its module in process instead of
executing the file; the outcome is the same, 40 ms sooner.
"""

from __future__ import annotations

import os

from podling.cni.types import INVALID_CONFIG, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from podling.cni.plugins.skel import Plugin

MARKER = "# podling-cni-plugin: "
MODULES = {
    "bandwidth": "podling.cni.plugins.meta.bandwidth",
    "bridge": "podling.cni.plugins.main.bridge",
    "dhcp": "podling.cni.plugins.ipam.dhcp",
    "dummy": "podling.cni.plugins.main.dummy",
    "firewall": "podling.cni.plugins.meta.firewall",
    "flannel": "podling.cni.plugins.meta.flannel",
    "host-device": "podling.cni.plugins.main.host_device",
    "host-local": "podling.cni.plugins.ipam.host_local",
    "ipvlan": "podling.cni.plugins.main.ipvlan",
    "loopback": "podling.cni.plugins.main.loopback",
    "macvlan": "podling.cni.plugins.main.macvlan",
    "portmap": "podling.cni.plugins.meta.portmap",
    "ptp": "podling.cni.plugins.main.ptp",
    "sample": "podling.cni.plugins.meta.sample",
    "sbr": "podling.cni.plugins.meta.sbr",
    "static": "podling.cni.plugins.ipam.static",
    "tap": "podling.cni.plugins.main.tap",
    "tuning": "podling.cni.plugins.meta.tuning",
    "vlan": "podling.cni.plugins.main.vlan",
    "vrf": "podling.cni.plugins.meta.vrf",
}

_seen: dict[tuple[str, int, int, int], str | None] = {}


def find_plugin(kind: str, path: Iterable[str]) -> str:
    """The executable for a plugin type. `CNIError` in the words runtimes use when there is none."""
    directories = list(path)
    if not kind or "/" in kind:
        raise CNIError(INVALID_CONFIG, f"invalid plugin name: {kind!r}", 'set "type" to a file name')
    for directory in directories:
        candidate = os.path.join(directory, kind)
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    where = ", ".join(directories) or "an empty CNI_PATH"
    raise CNIError(INVALID_CONFIG, f'failed to find plugin "{kind}" in path [{where}]')


def own_plugin(executable: str) -> Plugin | None:
    """The plugin behind the executable when it is one of ours, imported; None for anything else."""
    info = os.stat(executable)
    key = (executable, info.st_ino, info.st_mtime_ns, info.st_size)
    if key not in _seen:
        fd = os.open(executable, os.O_RDONLY | os.O_CLOEXEC)  # `open` would begin all of Python
        try:
            head = os.read(fd, 1024)
        finally:
            os.close(fd)
        _, found, rest = head.partition(b"\n" + MARKER.encode())
        _seen[key] = MODULES.get(rest.split(b"\n", 1)[0].decode(errors="replace").strip()) if found else None
    module = _seen[key]
    return load_plugin(module) if module else None


def load_plugin(module: str) -> Plugin:
    plugin: Plugin = __import__(module, fromlist=["PLUGIN"]).PLUGIN
    return plugin
