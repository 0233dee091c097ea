"""Prepares the volumes of a pod on the node and takes them away again.

Everything lives below `ROOT/pods/UID/volumes/`; nothing is remembered elsewhere, so a restarted kubelet
finds the same volumes by preparing them again (each step is idempotent), and a pod's directory is all
there is to remove. File system work runs in threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from podling.api import core_v1
from podling.api.quantity import to_bytes
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.container_config import PreparedVolume
from podling.kubelet.environment import Sources
from podling.kubelet.expansion import expand, missing_names
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.volumes.atomic_writer import write_payload
from podling.kubelet.volumes.host_path import ensure_host_path
from podling.kubelet.volumes.payload import VolumeError, compute_payload, has_payload
from podling.kubelet.volumes.subpath import bind_sub_path
from podling.linux import syscalls

P = ParamSpec("P")
T = TypeVar("T")

_PLUGINS = {
    "config_map": "configmap",
    "secret": "secret",
    "downward_api": "downward-api",
    "projected": "projected",
}
_ON_DISK = "config_map"
"""The others may hold secrets or come from what does: they are kept in memory only, as upstream does."""


class MountFailure(Exception):
    """A volume of the pod cannot be set up; the text is the FailedMount event's."""

    def __init__(self, volume: str, cause: str) -> None:
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {cause}')


async def prepare_volumes(
    config: KubeletConfig, pod: core_v1.Pod, *, sources: Sources, facts: PodFacts
) -> Mapping[str, PreparedVolume]:
    """Make every volume of the pod ready. Raises MountFailure for the first that cannot be."""
    if not names.pod_spec(pod).volumes:
        return {}
    return await _to_the_end(_prepare_all, config, pod, sources, facts)


def _prepare_all(
    config: KubeletConfig, pod: core_v1.Pod, sources: Sources, facts: PodFacts
) -> dict[str, PreparedVolume]:
    prepared: dict[str, PreparedVolume] = {}
    for volume in names.pod_spec(pod).volumes:
        try:
            prepared[volume.name] = _prepare(config, pod, volume, sources, facts)
        except VolumeError as err:
            raise MountFailure(volume.name, str(err)) from err
        except OSError as err:
            raise MountFailure(volume.name, f"{err.filename}: {err.strerror}") from err
    return prepared


async def refresh_volumes(
    config: KubeletConfig, pod: core_v1.Pod, *, sources: Sources, facts: PodFacts
) -> None:
    """Bring the volumes made from API objects up to date; others are left as their containers made them.

    Raises MountFailure for the first that cannot be made; it shows what it showed before.
    """
    await _to_the_end(_refresh_all, config, pod, sources, facts)


async def _to_the_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread, and be cancelled only after it: nothing is made behind a pod's removal."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # nobody is left to hear of it
        raise


def _refresh_all(config: KubeletConfig, pod: core_v1.Pod, sources: Sources, facts: PodFacts) -> None:
    for volume in filter(has_payload, names.pod_spec(pod).volumes):
        try:
            _prepare(config, pod, volume, sources, facts)
        except VolumeError as err:
            raise MountFailure(volume.name, str(err)) from err
        except OSError as err:
            raise MountFailure(volume.name, f"{err.filename}: {err.strerror}") from err


def _prepare(
    config: KubeletConfig, pod: core_v1.Pod, volume: core_v1.Volume, sources: Sources, facts: PodFacts
) -> PreparedVolume:
    uid = names.pod_uid(pod)
    context = names.pod_spec(pod).security_context
    gid = context.fs_group if context else None
    if volume.empty_dir is not None:
        path = names.volume_dir(config, uid, "empty-dir", volume.name)
        _ensure_empty_dir(path, volume.empty_dir, gid)
        return PreparedVolume(path=path)
    if volume.image is not None:
        return PreparedVolume(image=volume.image.reference or "", read_only=True)
    if volume.host_path is not None:
        return PreparedVolume(path=ensure_host_path(volume.host_path))
    if has_payload(volume):
        kind = next(name for name in _PLUGINS if getattr(volume, name) is not None)
        path = names.volume_dir(config, uid, _PLUGINS[kind], volume.name)
        payload = compute_payload(pod, volume, sources=sources, facts=facts)
        if kind != _ON_DISK:
            _ensure_tmpfs(path)
        write_payload(path, payload, gid=gid)
        return PreparedVolume(path=path, read_only=True)
    raise VolumeError(_unsupported(volume))


def _unsupported(volume: core_v1.Volume) -> str:
    kind = next((f for f in volume.__struct_fields__ if f != "name" and getattr(volume, f) is not None), None)
    if kind is None:
        return "no volume plugin matched"
    wire = dict(zip(volume.__struct_fields__, volume.__struct_encode_fields__, strict=True))[kind]
    return f"no volume plugin matched: volumes of type {wire} are not supported by this kubelet"


def _ensure_empty_dir(path: Path, source: core_v1.EmptyDirVolumeSource, gid: int | None) -> None:
    medium = source.medium or ""
    if medium not in ("", "Memory"):
        raise VolumeError(f"unknown storage medium {medium!r}: only the default and Memory are supported")
    if medium == "Memory":
        size = f"size={to_bytes(source.size_limit)}" if source.size_limit else ""
        _ensure_tmpfs(path, size)
    path.mkdir(parents=True, exist_ok=True)
    # By chmod, not by mkdir's mode: the umask must not narrow what any user of the pod may need.
    path.chmod(0o777 if gid is None else 0o2777)
    if gid is not None:
        os.chown(path, -1, gid)


def _ensure_tmpfs(path: Path, options: str = "") -> None:
    path.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(path):
        syscalls.mount("tmpfs", path, "tmpfs", data=f"mode=0755,{options}".rstrip(","))


# subPath


def resolve_sub_paths(
    config: KubeletConfig,
    pod: core_v1.Pod,
    container: names.AnyContainer,
    *,
    volumes: Mapping[str, PreparedVolume],
    environment: Mapping[str, str],
) -> dict[str, Path]:
    """Bind each subPath mount of a container to a place of its own; by mount path. Call it in a thread.

    Raises VolumeError.
    """
    resolved: dict[str, Path] = {}
    for index, mount in enumerate(container.volume_mounts):
        sub_path = mount.sub_path or ""
        if mount.sub_path_expr:
            missing = missing_names(mount.sub_path_expr, environment)
            if missing:
                raise VolumeError(f"missing value for {missing[0]!r} in subPathExpr {mount.sub_path_expr!r}")
            sub_path = expand(mount.sub_path_expr, environment)
        if not sub_path or mount.name not in volumes or volumes[mount.name].image:
            continue
        base = names.pod_dir(config, names.pod_uid(pod)) / "volume-subpaths" / mount.name
        resolved[mount.mount_path] = bind_sub_path(
            volumes[mount.name].path, sub_path, base / container.name / str(index)
        )
    return resolved


def has_sub_paths(container: names.AnyContainer) -> bool:
    return any(mount.sub_path or mount.sub_path_expr for mount in container.volume_mounts)


# Removal


async def remove_pod_dir(config: KubeletConfig, uid: names.PodUID) -> None:
    """Unmount and delete everything below the pod's directory. Already gone is fine."""
    path = names.pod_dir(config, uid)
    if path.exists():
        await asyncio.to_thread(_remove_tree, path)


def _remove_tree(path: Path) -> None:
    for mount in _mounts_below(path):
        syscalls.umount(mount, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    # rmtree does not follow symlinks (shutil.rmtree.avoids_symlink_attacks on Linux).
    shutil.rmtree(path, ignore_errors=True)


def _mounts_below(path: Path) -> list[str]:
    """Mount points inside `path`, innermost first (`man 5 proc`, /proc/PID/mountinfo)."""
    prefix = f"{path}/"
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = (
                line.split(" ")[4].encode().decode("unicode_escape") if "\\" in line else line.split(" ")[4]
            )
            if point.startswith(prefix):
                found.append(point)
    return sorted(found, key=len, reverse=True)
