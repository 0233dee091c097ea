"""Devices by name: the Container Device Interface (CNCF TAG Runtime, "CDI specification" 1.1.0).

A device's vendor leaves a file that says what a container needs besides the name, `vendor.com/class=device`:
device nodes, mounts, variables, hooks, groups. The files are read anew for each container that asks for one,
so nothing need be told to the daemon:

    /etc/cdi/*.{json,yaml}        what was configured
    /var/run/cdi/*.{json,yaml}    what was found; wins over the former

Names come in the CRI's `CDI_devices` and, as before there was that field, in annotations `cdi.k8s.io/...`.
A file that is broken hides its devices; who asks for one of those is told of the file too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podling.runtime import host
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

ANNOTATION_PREFIX = "cdi.k8s.io/"
_KIND = r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]/[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_NAME = re.compile(rf"{_KIND}=[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?")
HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})

Spec = dict[str, Any]


class DeviceNode(msgspec.Struct, rename="camel"):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(msgspec.Struct, rename="camel"):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(msgspec.Struct, rename="camel"):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(msgspec.Struct, rename="camel"):
    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[Mount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(name="additionalGids", default_factory=list)


class Device(msgspec.Struct, rename="camel"):
    name: str
    container_edits: Edits = msgspec.field(default_factory=Edits)


class File(msgspec.Struct, rename="camel"):
    cdi_version: str
    kind: str
    devices: list[Device]
    container_edits: Edits = msgspec.field(default_factory=Edits)


@dataclass(slots=True)
class _Registry:
    devices: dict[str, tuple[File, Device]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def requested(config: cri.ContainerConfig) -> list[str]:
    """The names a container asks for, each once. Raises `CRIError` INVALID_ARGUMENT for what is no name."""
    names = [device.name for device in config.cdi_devices]
    for key, value in sorted(config.annotations.items()):
        if key.startswith(ANNOTATION_PREFIX):
            names += value.split(",")
    for name in names:
        if not _NAME.fullmatch(name):
            raise CRIError(Code.INVALID_ARGUMENT, f"invalid CDI device name {name!r}")
    return list(dict.fromkeys(names))


def inject(spec: Spec, names: Sequence[str], folders: Iterable[Path]) -> None:
    """Edit a container's specification. Reads files: call it in a thread. Raises `CRIError` NOT_FOUND."""
    if not names:
        return
    registry = _read(folders)
    if unknown := [name for name in names if name not in registry.devices]:
        text = f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}"
        raise CRIError(Code.NOT_FOUND, "; ".join([text, *registry.problems]))
    edits: list[Edits] = []
    for name in names:
        file, device = registry.devices[name]
        if file.container_edits not in edits:
            edits.append(file.container_edits)  # once, however many of its devices are asked for
        edits.append(device.container_edits)
    try:
        for edit in edits:
            _apply(spec, edit)
    except (OSError, ValueError) as err:
        raise CRIError(Code.INVALID_ARGUMENT, f"CDI device injection failed: {err}") from err
    # Parents before children, as with all mounts.
    spec["mounts"].sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))


def has_hooks(spec: Spec) -> bool:
    return any(spec.get("hooks", {}).values())


def _read(folders: Iterable[Path]) -> _Registry:
    registry = _Registry()
    for folder in folders:
        here: dict[str, tuple[File, Device]] = {}
        for path in sorted([*folder.glob("*.json"), *folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                file = _decode(path)
            except (OSError, ValueError, msgspec.MsgspecError) as err:
                registry.problems.append(f"failed to load CDI Spec {path}: {err}")
                continue
            for device in file.devices:
                name = f"{file.kind}={device.name}"
                if name in here:
                    registry.problems.append(f"conflicting device {name} in {path}")
                here[name] = file, device
        registry.devices |= here
    return registry


def _decode(path: Path) -> File:
    """Raises OSError, ValueError, MsgspecError."""
    if path.suffix == ".json":
        file = msgspec.json.decode(path.read_bytes(), type=File)
    else:
        file = msgspec.yaml.decode(path.read_bytes(), type=File)
    if not re.fullmatch(_KIND, file.kind):
        raise ValueError(f"invalid kind {file.kind!r}")
    for device in file.devices:
        if not _NAME.fullmatch(f"{file.kind}={device.name}"):
            raise ValueError(f"invalid device name {device.name!r}")
    for edits in (file.container_edits, *(device.container_edits for device in file.devices)):
        _check(edits)
    return file


def _check(edits: Edits) -> None:
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS or not hook.path.startswith("/"):
            raise ValueError(f"invalid hook {hook.hook_name!r} {hook.path!r}")
    for node in edits.device_nodes:
        if not node.path.startswith("/") or set(node.permissions) - set("rwm"):
            raise ValueError(f"invalid device node {node.path!r} with permissions {node.permissions!r}")
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path.startswith("/"):
            raise ValueError(f"invalid mount of {mount.host_path!r} on {mount.container_path!r}")
    for env in edits.env:
        if not env.partition("=")[0] or "=" not in env:
            raise ValueError(f"invalid environment variable {env!r}")


def _apply(spec: Spec, edits: Edits) -> None:
    process, linux = spec["process"], spec["linux"]
    named = {entry.partition("=")[0] for entry in edits.env}
    process["env"] = [e for e in process["env"] if e.partition("=")[0] not in named] + edits.env
    groups = process["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edits.additional_gids if gid and gid not in groups]
    for node in edits.device_nodes:
        _add_node(linux, node, process["user"])
    for mount in edits.mounts:
        options = mount.options or ["rbind", "rprivate", "ro"]
        made = {"destination": mount.container_path, "source": mount.host_path, "options": options}
        spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != mount.container_path]
        spec["mounts"].append({**made, "type": mount.type or "bind"})
    for hook in edits.hooks:
        made_hook: Spec = {"path": hook.path}
        made_hook |= {key: value for key, value in (("args", hook.args), ("env", hook.env)) if value}
        if hook.timeout is not None:
            made_hook["timeout"] = hook.timeout
        spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(made_hook)


def _add_node(linux: Spec, node: DeviceNode, user: Spec) -> None:
    access = node.permissions or "rwm"
    if node.type and (node.major or node.minor):
        device: Spec = {"path": node.path, "type": node.type, "major": node.major, "minor": node.minor}
    else:
        (device,) = host.devices(node.host_path or node.path, node.path, access)
        device.pop("access")
    if node.file_mode is not None:
        device["fileMode"] = node.file_mode
    # Without owners of its own it belongs to whom the container runs as (CDI, "deviceNodes").
    device["uid"] = user["uid"] if node.uid is None else node.uid
    device["gid"] = user["gid"] if node.gid is None else node.gid
    linux["devices"] = [d for d in linux.get("devices", []) if d["path"] != node.path] + [device]
    rules = linux["resources"].get("devices")
    if rules is not None:
        numbers = {key: device[key] for key in ("type", "major", "minor")}
        rules.append({"allow": True, "access": access, **numbers})
