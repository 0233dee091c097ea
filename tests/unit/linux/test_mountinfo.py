"""What is read from /proc/PID/mountinfo: mounts, and the cgroup layout they make."""

from __future__ import annotations

import pytest

from podling.linux.cgroups import CgroupError, Cgroups, Layout, shares_to_weight
from podling.linux.mounts import parse_mountinfo

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /../.. /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,name=systemd
"""
V2_BESIDE = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_fields_and_escapes() -> None:
    line = r"36 35 98:0 /mnt1 /mnt/with\040blank rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=x"
    (mount,) = parse_mountinfo(line)
    assert (mount.mount_id, mount.parent_id, mount.root) == (36, 35, "/mnt1")
    assert mount.target == "/mnt/with blank"
    assert mount.options == {"rw", "noatime"}
    assert mount.propagation == {"master:1", "shared:2"}
    assert (mount.fstype, mount.source) == ("ext3", "/dev/root")
    assert mount.super_options == {"rw", "errors=x"}


@pytest.mark.parametrize(
    ("text", "layout"), [(V1, Layout.V1), (V1 + V2_BESIDE, Layout.HYBRID), (V2, Layout.V2)]
)
def test_layouts(text: str, layout: Layout) -> None:
    assert Cgroups(parse_mountinfo(text)).layout is layout


def test_controllers_share_a_hierarchy() -> None:
    cgroups = Cgroups(parse_mountinfo(V1))
    assert set(cgroups.controllers) == {"cpu", "cpuacct", "memory", "name=systemd"}
    assert str(cgroups.path("/a/b", "cpu")) == "/sys/fs/cgroup/cpu,cpuacct/a/b"
    assert cgroups.path("/a", "pids") is None


def test_v2_has_every_controller_in_one_place() -> None:
    cgroups = Cgroups(parse_mountinfo(V2))
    assert str(cgroups.path("/a", "memory")) == str(cgroups.path("a", "pids")) == "/sys/fs/cgroup/a"


def test_no_cgroups_at_all() -> None:
    with pytest.raises(CgroupError, match="no cgroup file system is mounted"):
        Cgroups([])


@pytest.mark.parametrize(("shares", "weight"), [(0, 0), (2, 1), (1024, 39), (262144, 10000), (999999, 10000)])
def test_shares_as_weight(shares: int, weight: int) -> None:
    assert shares_to_weight(shares) == weight
