"""Images from Debian packages, when the packages are in the cache already: tests download nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from podling.runtime.images.build import BuildSpec, build
from podling.runtime.images.demo import RECIPES
from podling.runtime.images.errors import BuildError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.packages import DEFAULT_CACHE_DIR
from podling.runtime.images.store import ImageStore


def cached(store: ImageStore, spec: BuildSpec) -> Path:
    """The root file system of a build, or a skip when apt would have to download."""
    try:
        return store.rootfs_path(build(store, spec))
    except BuildError as err:
        # This process has no way out, so apt cannot fetch what is not there.
        pytest.skip(f"packages not in {DEFAULT_CACHE_DIR}: {err}")


def run(root: Path, *command: str) -> str:
    result = subprocess.run(
        ["chroot", root, *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 0, result
    return result.stdout + result.stderr


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_demo_images_are_small_and_reproducible(tmp_path: Path, recipe: object) -> None:
    assert callable(recipe)
    one, two = ImageStore(tmp_path / "one"), ImageStore(tmp_path / "two")
    cached(one, recipe())
    cached(two, recipe())
    (first,), (second,) = one.list(), two.list()
    assert first.id == second.id
    assert first.size_bytes < 60e6


def test_busybox_has_the_programs_of_the_story(tmp_path: Path) -> None:
    root = cached(ImageStore(tmp_path / "images"), RECIPES[0]())
    for name in ("sh", "sleep", "ps", "ping", "wget", "nslookup", "ip", "vi", "netstat"):
        assert any((root / place / name).exists() for place in ("bin", "sbin")), name
    assert "hello" in run(root, "/bin/sh", "-c", "echo hello | cat")
    assert run(root, "id").startswith("uid=0(root)")
    # The real one: Debian's busybox cannot tell programs.
    assert "net-tools" in run(root, "netstat", "--version")


def test_packages_that_are_not_there_are_named(tmp_path: Path) -> None:
    spec = BuildSpec(names=("x",), packages=("no-such-package-here",), config=RunConfig())
    with pytest.raises(BuildError, match="no-such-package-here"):
        build(ImageStore(tmp_path / "images"), spec, cache_dir=tmp_path / "cache")
