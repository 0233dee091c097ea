from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from podling.linux import mounts


@pytest.fixture
def layers(mount_namespace: None, tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for path in made.values():
        path.mkdir()
    (made["lower"] / "file").write_text("lower")
    return made


def overlay(layers: dict[str, Path]) -> None:
    mounts.mount_overlay(
        layers["merged"], lower=[layers["lower"]], upper=layers["upper"], work=layers["work"]
    )


def test_overlay_writes_to_its_upper_layer(layers: dict[str, Path]) -> None:
    overlay(layers)
    assert (layers["merged"] / "file").read_text() == "lower"
    (layers["merged"] / "file").write_text("changed")
    assert (layers["lower"] / "file").read_text() == "lower"
    assert (layers["upper"] / "file").read_text() == "changed"
    assert mounts.unmount(layers["merged"])
    assert not mounts.unmount(layers["merged"])


def test_overlay_of_paths_with_special_characters(mount_namespace: None, tmp_path: Path) -> None:
    made = {name: tmp_path / f"{name}:a,b\\c" for name in ("lower", "upper", "work", "merged")}
    for path in made.values():
        path.mkdir()
    (made["lower"] / "file").write_text("there")
    overlay(made)
    assert (made["merged"] / "file").read_text() == "there"
    mounts.unmount(made["merged"])


def test_too_many_layers_are_named_as_such(layers: dict[str, Path]) -> None:
    with pytest.raises(OSError, match="options exceed a page") as caught:
        mounts.mount_overlay(
            layers["merged"], lower=[layers["lower"]] * 200, upper=layers["upper"], work=layers["work"]
        )
    assert caught.value.errno == errno.E2BIG


def test_upper_of_a_killed_program_is_taken_again(layers: dict[str, Path]) -> None:
    """The first mount is still there when the second is made, as after a crash."""
    overlay(layers)
    overlay(layers)
    assert mounts.unmount(layers["merged"])
    assert not mounts.is_mount_point(layers["merged"])


def test_read_only_bind(layers: dict[str, Path]) -> None:
    mounts.bind(layers["lower"], layers["merged"], read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (layers["merged"] / "new").touch()
    mounts.unmount(layers["merged"])


def test_unmount_below_takes_nested_mounts(layers: dict[str, Path]) -> None:
    mounts.mount_tmpfs(layers["merged"], size_bytes=1 << 20)
    inner = layers["merged"] / "with blank"
    inner.mkdir()
    mounts.mount_tmpfs(inner, size_bytes=1 << 20)
    assert mounts.is_mount_point(inner)
    assert mounts.unmount_below(layers["merged"]) == 2
    assert not mounts.is_mount_point(layers["merged"])
    assert mounts.unmount_below(layers["merged"]) == 0


def test_mountinfo_has_size_and_options_of_a_tmpfs(layers: dict[str, Path]) -> None:
    mounts.mount_tmpfs(layers["merged"], size_bytes=1 << 20)
    found = next(m for m in mounts.read_mountinfo() if m.target == str(layers["merged"]))
    assert found.fstype == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} <= found.options
    assert found.propagation == frozenset()
    assert os.statvfs(layers["merged"]).f_blocks * os.statvfs(layers["merged"]).f_frsize == 1 << 20
    mounts.unmount(layers["merged"])
