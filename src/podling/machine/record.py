"""What is on disk about each cluster: enough to find, show and remove it whoever died.

`cluster.json` is written whole and renamed, before the things it names are made, so that nothing exists
that no record tells of. It holds no secret.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from podling.linux.processes import ProcessRef
from podling.machine import paths
from podling.machine.config import MAX_CLUSTERS, ClusterConfig, ConfigError
from podling.machine.paths import ClusterPaths


class ClusterRecord(msgspec.Struct, kw_only=True):
    config: ClusterConfig
    kubeconfig: str = ""
    """The file `up` wrote the context into."""
    supervisor: ProcessRef | None = None
    nodes: dict[str, ProcessRef] = {}
    """Node -> its PID 1, by the machine's PIDs."""
    processes: dict[str, ProcessRef] = {}
    """`control-plane` and `agent@NODE` -> the daemon."""
    ip_forward_was: str = ""
    """The machine's net.ipv4.ip_forward before `up` changed it; empty when it did not."""

    def save(self) -> None:
        path = ClusterPaths.of(self.config.name).record
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        os.replace(temporary, path)

    @property
    def running(self) -> bool:
        """Any node of it is alive, and not only on its way out."""
        return any(p.running for p in self.nodes.values())


def load(name: str) -> ClusterRecord | None:
    """None when there is no such cluster, or so little of it that its record was never written."""
    try:
        return msgspec.json.decode(ClusterPaths.of(name).record.read_bytes(), type=ClusterRecord)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as err:
        raise ConfigError(
            f"{ClusterPaths.of(name).record} cannot be read ({err}): remove the cluster with "
            f"`podling down --name {name}`"
        ) from err


def names() -> list[str]:
    """The clusters of this machine, dead ones too."""
    if not paths.CLUSTERS.is_dir():
        return []
    return sorted(p.name for p in paths.CLUSTERS.iterdir() if p.is_dir())


def free_index() -> int:
    """The lowest index no cluster has. Raises `ConfigError` when there is none left."""
    taken = {r.config.index for n in names() if (r := load(n)) is not None}
    for index in range(MAX_CLUSTERS):
        if index not in taken:
            return index
    raise ConfigError(
        f"there are {MAX_CLUSTERS} clusters on this machine and no address ranges for one more: "
        "remove one with `podling down --name NAME`"
    )


@contextmanager
def machine_lock() -> Iterator[None]:
    """One `up` or `down` at a time on this machine; the kernel lets go of it when the holder dies."""
    fd = os.open(paths.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Not flock: that one the forked supervisor would hold on to for as long as the cluster lives.
        fcntl.lockf(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def require(name: str) -> ClusterRecord:
    """The record of a cluster that must exist. Raises `ConfigError` in kind's words."""
    record = load(name)
    if record is None:
        known = ", ".join(names()) or "none"
        raise ConfigError(
            f'no cluster "{name}" on this machine (there are: {known}): make it with `podling up`'
        )
    return record


def node_pid(record: ClusterRecord, node: str) -> int:
    """PID of a running node's PID 1. Raises `ConfigError`."""
    record.config.node(node)
    process = record.nodes.get(node)
    if process is None or not process.alive:
        raise ConfigError(f'node "{node}" of cluster "{record.config.name}" is not running')
    return process.pid


def admin_conf(name: str) -> Path:
    require(name)
    return ClusterPaths.of(name).admin_conf
