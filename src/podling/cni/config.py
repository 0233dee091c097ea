"""Network configurations: finding and reading them (CNI spec, section 1; libcni's rules for directories).

A directory holds `*.conflist` (a list of plugins) and `*.conf` or `*.json` (one plugin, taken as a list of
one), and the first valid file in the order of names is the network. Unknown keys are kept and passed to the
plugins. A file that cannot be used is reported with its name and skipped, as kubelets have always done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podling.cni import jsontext
from podling.cni.plugins.skel import valid_name
from podling.cni.types import UNNAMED, VERSIONS, CNIError, ConfigError

SUFFIXES = (".conf", ".conflist", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConf:
    """One plugin of a list: its own object, as written."""

    type: str
    raw: dict[str, Any]

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of runtime arguments the plugin wants to get."""
        return frozenset(name for name, wanted in (self.raw.get("capabilities") or {}).items() if wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfigList:
    """A network: plugins that are called in this order on ADD, and in reverse on DEL."""

    name: str
    cni_version: str
    plugins: tuple[PluginConf, ...]
    disable_check: bool
    disable_gc: bool
    raw: bytes  # the file's contents as a list, for the cache
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a directory holds."""

    network: NetworkConfigList | None
    problems: tuple[ConfigError, ...]  # of files before the first valid one


def config_files(directory: Path) -> list[Path]:
    """Files that may be configurations, sorted by name; none when the directory does not exist."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except FileNotFoundError:
        return []


def watched_files(directory: Path) -> list[Path]:
    """All files whose change may change the network: also plugins in the folders of networks."""
    found = config_files(directory)
    if any(path.suffix == ".conflist" for path in found):
        found += sorted(directory.glob("*/*.conf"))
    return found


def discover(directory: Path) -> Discovery:
    """The first valid configuration of the directory, and why those before it are not."""
    problems: list[ConfigError] = []
    for path in config_files(directory):
        try:
            return Discovery(network=load_file(path), problems=tuple(problems))
        except ConfigError as err:
            problems.append(err)
    return Discovery(network=None, problems=tuple(problems))


def load_file(path: Path) -> NetworkConfigList:
    """`ConfigError` with the file's name for everything that is wrong with it."""
    try:
        return parse(path.read_bytes(), path=path)
    except OSError as err:
        raise ConfigError(f"error loading CNI config file {path}: {err.strerror}") from err
    except CNIError as err:
        raise ConfigError(f"error loading CNI config file {path}: {err.message}", err.details) from err


def parse(text: bytes, *, path: Path | None = None) -> NetworkConfigList:
    """A list, or a single configuration made into one. `ConfigError` says what is wrong with it."""
    try:
        raw = jsontext.loads(text)
    except ValueError as err:
        raise ConfigError(f"error parsing configuration: {err}") from err
    if not isinstance(raw, dict):
        raise ConfigError("a network configuration must be a JSON object")
    if "plugins" not in raw and (path is None or path.suffix != ".conflist"):
        if not raw.get("type"):
            raise ConfigError('error parsing configuration: missing "type"')
        single = dict(raw)
        raw = {key: single[key] for key in ("cniVersion", "cniVersions", "name") if key in single}
        raw["plugins"] = [single]
    return _parse_list(raw, path)


def _parse_list(raw: dict[str, Any], path: Path | None) -> NetworkConfigList:
    name, plugins = raw.get("name"), raw.get("plugins")
    if not isinstance(name, str) or not name:
        raise ConfigError('error parsing configuration list: no name ("name" is missing or not a string)')
    if not valid_name(name):
        raise ConfigError(
            f"error parsing configuration list: invalid characters in network name {name!r}",
            "it begins with a letter or digit; then '_', '.' and '-' are allowed too",
        )
    loaded = _drop_ins(raw, name, path)
    if plugins is None and not loaded:
        raise ConfigError("error parsing configuration list: no 'plugins' key")
    if not isinstance(plugins or [], list):
        raise ConfigError("error parsing configuration list: invalid 'plugins' type, expected a list")
    confs = tuple(_parse_plugin(place, plugin) for place, plugin in enumerate([*(plugins or []), *loaded]))
    if not confs:
        raise ConfigError("error parsing configuration list: no plugins in list")
    return NetworkConfigList(
        name=name,
        cni_version=_version(raw),
        plugins=confs,
        disable_check=_truth(raw, "disableCheck"),
        disable_gc=_truth(raw, "disableGC"),
        raw=json.dumps({**raw, "plugins": [conf.raw for conf in confs]}).encode(),
        path=str(path or ""),
    )


def _drop_ins(raw: dict[str, Any], name: str, path: Path | None) -> list[dict[str, Any]]:
    """Plugins of the folder named after the network (CNI spec 1.1, `loadOnlyInlinedPlugins`)."""
    if path is None or path.suffix != ".conflist" or _truth(raw, "loadOnlyInlinedPlugins"):
        return []
    found = []
    for file in sorted((path.parent / name).glob("*.conf")):
        try:
            found.append(jsontext.loads(file.read_bytes()))
        except (OSError, ValueError) as err:
            raise ConfigError(f"error loading CNI config file {file}: {err}") from err
    return found


def _parse_plugin(place: int, raw: Any) -> PluginConf:
    if not isinstance(raw, dict):
        raise ConfigError(f"failed to parse plugin config {place}: it must be a JSON object")
    kind = raw.get("type")
    if not isinstance(kind, str) or not kind:
        raise ConfigError(f'failed to parse plugin config {place}: missing "type"')
    if "/" in kind:
        raise ConfigError(f"failed to parse plugin config {place}: invalid plugin type {kind!r}")
    for key in ("capabilities", "runtimeConfig"):
        if not isinstance(raw.get(key), dict | None):
            raise ConfigError(f"failed to parse plugin config {place}: {key} must be a JSON object")
    return PluginConf(type=kind, raw=raw)


def _version(raw: dict[str, Any]) -> str:
    """The newest of the versions on offer that we speak."""
    more = raw.get("cniVersions")
    if not isinstance(more or [], list):
        raise ConfigError(f"invalid type for cniVersions: must be a list, not {more!r}")
    offered: Sequence[Any] = [raw.get("cniVersion"), *(more or ())]
    offered = [version for version in offered if version] or [UNNAMED]
    known = [version for version in VERSIONS if version in offered]
    if known:
        return known[-1]
    said = ", ".join(map(str, offered))
    raise ConfigError(f"unsupported cniVersion: {said}", f"supported are {', '.join(VERSIONS)}")


def _truth(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key)
    # libcni takes the strings too, since people write them.
    words = {"true": True, "false": False}
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ConfigError(f'error parsing configuration list: invalid value "{value}" for {key}')


def plugin_conf(
    network: NetworkConfigList,
    plugin: PluginConf,
    *,
    capability_args: dict[str, Any],
    prev_result: dict[str, Any] | None,
    valid_attachments: Sequence[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """What a plugin gets on stdin (CNI spec, "Deriving execution configuration")."""
    raw = {key: value for key, value in plugin.raw.items() if key != "capabilities"}
    raw |= {"name": network.name, "cniVersion": network.cni_version}
    wanted = {key: value for key, value in capability_args.items() if key in plugin.capabilities}
    if wanted:
        raw["runtimeConfig"] = {**(raw.get("runtimeConfig") or {}), **wanted}
    if prev_result is not None:
        raw["prevResult"] = prev_result
    if valid_attachments is not None:  # of GC
        raw["cni.dev/valid-attachments"] = [
            {"containerID": container_id, "ifname": ifname} for container_id, ifname in valid_attachments
        ]
    return raw
