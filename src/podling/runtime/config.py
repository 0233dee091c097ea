"""The runtime's settings, loaded once by whoever starts it and passed down."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Where the runtime keeps what, and the programs it uses. Defaults are those of a real node."""

    root_dir: Path = Path("/var/lib/podling/runtime")
    """Survives a reboot: records, writable layers. Must not lie on an overlay: upper directories cannot."""
    run_dir: Path = Path("/run/podling")
    """Gone with a reboot, as the processes are: crun's and conmon's state, sockets, exit files, bundles."""
    image_dir: Path = Path("/var/lib/podling/images")
    """The image store, shared by all nodes on the machine."""
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dirs: tuple[Path, ...] = (Path("/opt/cni/bin"),)
    cni_cache_dir: Path = Path("/var/lib/cni/results")
    netns_dir: Path = Path("/run/netns")
    """Where `ip netns` looks too, so `ip netns list` shows the pods."""
    cdi_spec_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    """Descriptions of devices by name (CDI); the later one wins. containerd's and CRI-O's default."""
    crun: str = "crun"
    """An OCI runtime: a name on the path, or a path."""
    conmon: str = "conmon"
    pause: Path | None = None
    """The pause program; None: the package's own."""
    cgroup_parent: str = "/podling-pods"
    """For sandboxes that name none (crictl); the kubelet always names one below its kubepods."""
    shm_bytes: int = 64 * MIB
    """Size of a sandbox's /dev/shm; Docker's and containerd's default."""
    max_parallel_starts: int = max(4, 2 * (os.cpu_count() or 1))
    """crun and conmon processes at once. The processor bounds them: more only makes each of them late."""
    stop_margin_s: float = 10.0
    """How long a killed process may take to disappear before StopContainer gives up."""

    @property
    def cri_socket(self) -> Path:
        return self.run_dir / "cri.sock"
