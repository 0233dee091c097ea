"""The OCI specification of a container by hand: as the CRI's, then what only Docker's options can say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from podling.runtime import host, oci, security
from podling.runtime.byhand import hosts
from podling.runtime.byhand.errors import HandError
from podling.runtime.byhand.hand import Hand, Held
from podling.runtime.byhand.settings import Extras, joined
from podling.runtime.cri import messages as cri
from podling.runtime.images.oci import RunConfig
from podling.runtime.sandbox_files import mounted_files
from podling.runtime.view import State

RLIM_INFINITY = 2**64 - 1
"""OCI runtime spec, "POSIX process", rlimits: unsigned."""


def specification_of(hand: Hand, held: Held) -> dict[str, Any]:
    core, record, settings = hand.core, held.record, held.settings
    config = record.config
    context = oci.security_context(config)
    machine = oci.with_devices(core.host, host.host_devices()) if context.privileged else core.host
    granted = frozenset(oci.capabilities(context, machine.capabilities))
    profile = None if context.privileged else security.resolve_seccomp(context.seccomp, granted)
    image = core.images.get(record.image_id).run_config if record.image_id else RunConfig()
    given = [f"{env.key}={env.value.decode(errors='replace')}" for env in config.envs]
    spec = oci.container_spec(
        oci.ContainerInput(
            config=config,
            args=record.command,
            env=[*(image.env or ()), f"HOSTNAME={_hostname(settings.hostname, settings.network)}", *given],
            cwd=config.working_dir or image.working_dir or "/",
            user=record.user,
            rootfs=rootfs_of(hand, held),
            namespaces=_namespaces(hand, held),
            cgroup=record.cgroup,
            host=machine,
            shm=_shm(hand, held),
            sandbox_files=_files(hand, held) if record.image_id else {},
            annotations={"io.podling.name": record.name},
            devices=_devices(config),
            seccomp=profile or oci.Seccomp(),
        )
    )
    if settings.network != "host" and not _in_pod(held, "uts"):
        spec["hostname"] = settings.hostname
    if settings.netns:
        # As in Docker: a container's ports are its own, so port 80 needs no privilege, nor does ping.
        spec["linux"]["sysctl"] = {
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        }
    add_extras(spec, settings.extras)
    return spec


def rootfs_of(hand: Hand, held: Held) -> Path:
    """Pause has no image: its root file system, which nobody writes to, is the same for all."""
    return hand.paths.rootfs(held.id) if held.record.image_id else hand.paths.pause_rootfs


def add_extras(spec: dict[str, Any], extras: Extras) -> None:
    """Pure: changes the document only."""
    if extras.tmpfs:
        spec["mounts"] = [m for m in spec["mounts"] if m["destination"] not in extras.tmpfs]
        spec["mounts"] += [_tmpfs(path, options) for path, options in extras.tmpfs.items()]
    if extras.ulimits:
        spec["process"]["rlimits"] = [
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": _rlimit(limit.soft), "hard": _rlimit(limit.hard)}
            for limit in extras.ulimits
        ]
    if extras.sysctls:
        spec["linux"]["sysctl"] = {**spec["linux"].get("sysctl", {}), **extras.sysctls}
    if extras.pids_limit:
        spec["linux"]["resources"]["pids"] = {"limit": extras.pids_limit}


def _tmpfs(path: str, options: str) -> dict[str, Any]:
    given = [option for option in options.split(",") if option]
    return {
        "destination": path,
        "type": "tmpfs",
        "source": "tmpfs",
        # As Docker; what is said later wins.
        "options": ["noexec", "nosuid", "nodev", *given],
    }


def _rlimit(value: int) -> int:
    return RLIM_INFINITY if value < 0 else value


def _devices(config: cri.ContainerConfig) -> list[dict[str, Any]]:
    try:
        return [
            device
            for given in config.devices
            for device in host.devices(given.host_path, given.container_path, given.permissions)
        ]
    except (OSError, ValueError) as err:
        raise HandError(f"error gathering device information while adding custom device: {err}") from err


def _hostname(hostname: str, mode: str) -> str:
    return os.uname().nodename if mode == "host" else hostname


def _namespaces(hand: Hand, held: Held) -> dict[str, str]:
    """Docker's: network, IPC, UTS and PID of its own, unless told otherwise. Empty path: a new one."""
    settings = held.settings
    wanted: dict[str, str] = {}
    if settings.network != "host":
        other = joined(settings.network)
        wanted["network"] = _path(hand, other, "network", "net") if other else settings.netns
        wanted["uts"] = _path(hand, settings.pod, "uts", "uts") if _in_pod(held, "uts") else ""
    for kind, mode in (("ipc", settings.ipc), ("pid", settings.pid)):
        if mode != "host":
            wanted[kind] = _path(hand, joined(mode), kind, kind) if joined(mode) else ""
    return wanted


def _in_pod(held: Held, kind: str) -> bool:
    """Whether it joins this namespace of its pod's."""
    settings = held.settings
    return bool(settings.pod) and settings.pod != held.id and kind in settings.joins


def _path(hand: Hand, container_id: str, what: str, name: str) -> str:
    seen = hand.find(container_id)
    if seen.state is not State.RUNNING:
        raise HandError(f"cannot join {what} of a non running container: {container_id}")
    return f"/proc/{seen.pid}/ns/{name}"


def _shm(hand: Hand, held: Held) -> Path:
    if held.settings.ipc == "host":
        return Path("/dev/shm")
    return hand.paths.shm(joined(held.settings.ipc) or held.id)


def _files(hand: Hand, held: Held) -> dict[str, Path]:
    """hosts, hostname and resolv.conf; those of the container whose network it shares."""
    other = joined(held.settings.network)
    folder = hand.paths.sandbox(other or held.id)
    return {**mounted_files(folder), hosts.HOSTS: folder / "hosts"}
