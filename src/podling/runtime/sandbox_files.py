"""/etc/hostname and /etc/resolv.conf of a pod: one of each, bind-mounted into every container.

/etc/hosts is the kubelet's: it knows the pod's addresses and host aliases.
"""

from __future__ import annotations

import os
from pathlib import Path

from podling.runtime.cri import messages as cri

RESOLV_CONF = "/etc/resolv.conf"
HOSTNAME = "/etc/hostname"


def write_sandbox_files(
    folder: Path, config: cri.PodSandboxConfig, *, owner: tuple[int, int] = (0, 0)
) -> None:
    """Without a DNS configuration the node's own resolver is copied, as containerd does."""
    (folder / "hostname").write_text(f"{config.hostname or os.uname().nodename}\n")
    resolver = folder / "resolv.conf"
    if config.dns_config is not None:
        resolver.write_text(resolv_conf(config.dns_config))
    elif Path(RESOLV_CONF).exists():
        resolver.write_bytes(Path(RESOLV_CONF).read_bytes())
    else:
        resolver.touch()
    for name in ("hostname", "resolv.conf"):
        (folder / name).chmod(0o644)
        if owner != (0, 0):
            os.chown(folder / name, *owner)


def resolv_conf(dns: cri.DNSConfig) -> str:
    """`man 5 resolv.conf`."""
    lines = []
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}")
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)


def mounted_files(folder: Path) -> dict[str, Path]:
    """Path in a container -> file of the sandbox."""
    return {RESOLV_CONF: folder / "resolv.conf", HOSTNAME: folder / "hostname"}
