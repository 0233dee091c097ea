"""`containers/ID/settings.json`: what is kept of a container run by hand beside its `ContainerRecord`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

FILE = "settings.json"
DEFAULT_NETWORK = "podling"
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
