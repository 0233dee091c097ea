"""What a node sees of the file system: the machine's files, with some directories of its own.

/etc, /opt and /var are overlays of the machine's: the node may write anywhere, the machine never sees it.
The directories in which pods live are plain binds of folders below the cluster's state; /run, /proc, /sys
and the cgroup hierarchies are mounted afresh in the node's namespaces.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from podling.linux import syscalls as sc
from podling.machine import features, node_cgroup, paths
from podling.machine.config import NodeConfig
from podling.machine.paths import NodePaths


def prepare(node: NodeConfig, node_paths: NodePaths) -> None:
    """Make the folders `mount_view` mounts, with the node's own /etc/hostname, hosts and resolv.conf."""
    for name in paths.NODE_BINDS:
        node_paths.bind(name).mkdir(parents=True, exist_ok=True)
    for name in paths.NODE_OVERLAYS:
        for part in ("upper", "work"):
            (node_paths.root / name / part).mkdir(parents=True, exist_ok=True)
    paths.IMAGES.mkdir(parents=True, exist_ok=True)
    etc = node_paths.root / "etc" / "upper"
    (etc / "hostname").write_text(f"{node.name}\n")
    (etc / "hosts").write_text(
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{node.address}\t{node.name}\n"
    )
    # The machine's may be a link into its /run, which the node does not see.
    (etc / "resolv.conf").write_text(_machine_resolv_conf())


def _machine_resolv_conf() -> str:
    """The machine's name servers that a node can reach: not those on its loopback."""
    for candidate in ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"):
        try:
            lines = Path(candidate).read_text().splitlines()
        except OSError:
            continue
        kept = [line for line in lines if not line.startswith(("nameserver 127.", "nameserver ::1"))]
        return "\n".join(kept) + "\n"
    return ""


def mount_view(node_paths: NodePaths) -> None:
    """In the node's new namespaces, as its PID 1: mount all of the above."""
    sc.mount("none", "/", flags=sc.MS_REC | sc.MS_PRIVATE)
    hierarchies = node_cgroup.hierarchies()
    # Held open because the overlay of /var hides them.
    images = os.open(paths.IMAGES, os.O_PATH)
    binds = {target: os.open(node_paths.bind(name), os.O_PATH) for name, target in paths.NODE_BINDS.items()}
    for name in paths.NODE_OVERLAYS:
        _overlay(name, node_paths.root / name)
    sc.mount("tmpfs", "/var/lib/podling", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=0711")
    sc.mount("tmpfs", "/run", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=0755")
    os.mkdir("/run/lock", 0o1777)
    os.mkdir("/run/netns", 0o755)
    _bind(images, "/var/lib/podling/images")
    for target, fd in binds.items():
        _bind(fd, target)
    sc.mount("proc", "/proc", "proc", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    # Detached rather than covered: what is covered is still listed in mountinfo, and whoever asks there for
    # cgroup hierarchies must find the node's only.
    with suppress(OSError):
        sc.umount("/sys", sc.MNT_DETACH)
    sc.mount("sysfs", "/sys", "sysfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    _mount_cgroups(hierarchies)
    # As on a machine that systemd has started: what is mounted later can be handed on to pods that ask for it
    # (HostToContainer), and by them (Bidirectional). The machine's own mounts were left behind above.
    sc.mount("none", "/", flags=sc.MS_REC | sc.MS_SHARED)


def _overlay(name: str, layers: Path) -> None:
    data = f"lowerdir=/{name},upperdir={layers}/upper,workdir={layers}/work"
    with features.overlay_on(str(layers)):
        sc.mount("overlay", f"/{name}", "overlay", data=data)


def _bind(fd: int, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    sc.mount(f"/proc/self/fd/{fd}", target, flags=sc.MS_BIND | sc.MS_REC)
    os.close(fd)


def _mount_cgroups(hierarchies: dict[str, Path]) -> None:
    flags = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    if list(hierarchies) == [""]:
        sc.mount("cgroup2", node_cgroup.CGROUP, "cgroup2", flags)
        return
    sc.mount("tmpfs", node_cgroup.CGROUP, "tmpfs", flags, "mode=0755")
    # No `unified` beside them: crun 1.8 refuses to run on hybrid hierarchies.
    for options, where in hierarchies.items():
        os.makedirs(where, exist_ok=True)
        sc.mount(
            "cgroup",
            where,
            "cgroup",
            flags,
            options if not options.startswith("name=") else f"none,{options}",
        )
