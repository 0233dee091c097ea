"""What a user is told when the state directory cannot hold a node, on the real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podling.linux.mounts import mount_overlay, unmount
from podling.machine import node as node_sandbox
from podling.machine import node_cgroup
from podling.machine.config import ClusterConfig
from podling.machine.node import NodeError
from podling.machine.paths import NodePaths
from podling.pause.build import pause_path


def children() -> list[str]:
    """PIDs of this process's children, zombies included."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_state_directory_on_an_overlay_is_refused_in_words(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    before = children()
    merged = tmp_path / "merged"
    mount_overlay(merged, lower=[tmp_path / "lower"], upper=tmp_path / "upper", work=tmp_path / "work")
    try:
        node = ClusterConfig(name="overlaid", index=6).nodes[0]
        with pytest.raises(NodeError, match=r"cannot hold an overlay's upper layer.*mount a disk or a tmpfs"):
            node_sandbox.start_node(
                node, "overlaid", NodePaths(merged / "node"), pause_path(), lambda pid: None
            )
    finally:
        node_cgroup.remove("overlaid")
        unmount(merged)
    assert children() == before
