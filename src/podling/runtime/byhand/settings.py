"""`containers/ID/settings.json`: what is kept of a container run by hand beside its `ContainerRecord`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from podling.runtime.cri import messages as cri

FILE = "settings.json"
DEFAULT_NETWORK = "podling"
STOP_TIMEOUT_S = 10.0
"""Docker's: from the stop signal to SIGKILL."""
SHARED = ("ipc", "net", "uts")
"""What the containers of a pod share unless told otherwise; podman's."""
JOINED = "container:"
"""Prefix of a mode that joins another container's namespace; followed by its ID once resolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """`-p`: a port of the machine that leads to one of the container."""

    host_ip: str = ""
    host_port: int
    container_port: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.host_ip or '0.0.0.0'}:{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """`--restart`. Only this machine's uptime counts: after a reboot nobody is there to start anything."""

    policy: str = "no"
    """no, on-failure, always or unless-stopped."""
    retries: int = 0
    """Of on-failure; 0: without end."""

    def wanted(self, exit_code: int, restarts: int) -> bool:
        if self.policy == "on-failure":
            return exit_code != 0 and (not self.retries or restarts < self.retries)
        return self.policy in ("always", "unless-stopped")

    def __str__(self) -> str:
        return f"{self.policy}:{self.retries}" if self.retries else self.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """`--ulimit`; -1: without limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What Docker's options say and the CRI's ContainerConfig has no word for."""

    tmpfs: dict[str, str] = field(default_factory=dict)
    """Path in the container -> mount options."""
    ulimits: list[Ulimit] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    pids_limit: int = 0
    shm_bytes: int = 0
    """0: the runtime's default."""
    dns: cri.DNSConfig | None = None
    """None: the machine's own resolver."""
    hosts: list[tuple[str, str]] = field(default_factory=list)
    """(address, name) for /etc/hosts."""
    ip: str = ""
    mac: str = ""
    log_max_bytes: int = 0
    """conmon starts the log anew when it is larger; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInfo:
    """Kept with the container that holds a pod's namespaces (its ID is the pod's): one write makes a pod."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    share: list[str] = field(default_factory=lambda: list(SHARED))
    """Which namespaces the pod's containers join: of net, ipc, uts, pid."""


@dataclass(slots=True, kw_only=True)
class Settings:
    """Modes are Docker's: `--network` NAME, host, none, container:ID; `--pid` and `--ipc` host, container:ID
    or empty for the container's own."""

    hostname: str
    network: str = DEFAULT_NETWORK
    pid: str = ""
    ipc: str = ""
    ports: list[Port] = field(default_factory=list)
    restart: Restart = Restart()
    auto_remove: bool = False
    stop_timeout_s: float = STOP_TIMEOUT_S
    extras: Extras = field(default_factory=Extras)
    pod: str = ""
    """ID of the pod it is in, empty for none; its own when it is the one that holds the namespaces."""
    joins: list[str] = field(default_factory=list)
    """Which namespaces of the pod's it joins."""
    pod_info: PodInfo | None = None
    init: bool = False
    """Runs to its end before the pod's others start; who starts the pod applies its restart policy."""

    # what comes about

    netns: str = ""
    """The pinned namespace while the container runs with a network of its own."""
    ips: list[str] = field(default_factory=list)
    restarts: int = 0
    stopped: bool = False
    """By a person: then no policy starts it again."""


def read_settings(layer: Path) -> Settings | None:
    try:
        return msgspec.json.decode((layer / FILE).read_bytes(), type=Settings)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def joined(mode: str) -> str:
    """The ID of a `container:ID` mode, else empty."""
    return mode.removeprefix(JOINED) if mode.startswith(JOINED) else ""
