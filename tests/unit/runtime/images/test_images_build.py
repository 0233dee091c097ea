from __future__ import annotations

import os
from pathlib import Path

import pytest

from podling.runtime.images.build import BuildSpec, File, build, build_if_changed
from podling.runtime.images.errors import BuildError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.packages import fetch_packages
from podling.runtime.images.skeleton import DEFAULT_EXCLUDES, is_wanted
from podling.runtime.images.store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "source"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/app").write_text("#!/bin/sh\n")
    (tree / "bin/app").chmod(0o755)
    os.link(tree / "bin/app", tree / "bin/again")
    os.symlink("app", tree / "bin/link")
    (tree / "empty").mkdir(mode=0o700)
    for path in (tree / "bin/app", tree / "empty"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return tree


def test_a_directory_becomes_an_image_with_its_config(store: ImageStore, source: Path) -> None:
    config = RunConfig(entrypoint=["/bin/app"], env=["A=1"], user="1000", exposed_ports={"80/tcp": {}})
    record = build(store, BuildSpec(names=("app:1",), from_dir=source, config=config))
    assert record.repo_tags == ("docker.io/library/app:1",)
    assert record.run_config == config
    assert record.uid == 1000
    root = store.rootfs_path(record)
    assert os.access(root / "bin/app", os.X_OK)
    assert os.readlink(root / "bin/link") == "app"
    assert os.stat(root / "bin/app").st_ino == os.stat(root / "bin/again").st_ino
    assert os.stat(root / "empty").st_mode & 0o777 == 0o700
    assert record.config.created == "2023-11-14T22:13:20Z"


def test_the_same_input_gives_the_same_digests(tmp_path: Path, source: Path) -> None:
    spec = BuildSpec(names=("app",), from_dir=source, files=(File(path="/etc/x", content="1"),))
    first = build(ImageStore(tmp_path / "one"), spec)
    os.utime(source / "bin", None)
    second = build(ImageStore(tmp_path / "two"), spec)
    assert (first.id, first.manifest_digest) == (second.id, second.manifest_digest)


def test_copies_go_where_dockers_copy_puts_them(store: ImageStore, source: Path, tmp_path: Path) -> None:
    extra = tmp_path / "file.txt"
    extra.write_text("x")
    spec = BuildSpec(
        names=("app",),
        from_dir=source,
        copies=((extra, "/srv/"), (extra, "/srv/renamed"), (source / "bin", "/opt/bin")),
    )
    root = store.rootfs_path(build(store, spec))
    for name in ("srv/file.txt", "srv/renamed", "opt/bin/app"):
        assert (root / name).is_file(), name


def test_a_symlink_in_the_directory_does_not_lead_copies_to_the_host(
    store: ImageStore, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, source / "etc")
    extra = tmp_path / "file.txt"
    extra.write_text("x")
    spec = BuildSpec(
        names=("app",),
        from_dir=source,
        copies=((extra, "/etc/a"),),
        files=(File(path="/etc/b", content="x"),),
    )
    build(store, spec)
    assert os.listdir(outside) == []


def test_a_recipe_is_built_once(store: ImageStore, source: Path) -> None:
    def spec(content: str) -> BuildSpec:
        return BuildSpec(names=("app",), files=(File(path="/x", content=content),), copies=((source, "/"),))

    first, built = build_if_changed(store, spec("1"))
    assert built
    assert build_if_changed(store, spec("1")) == (first, False)
    changed, built = build_if_changed(store, spec("2"))
    assert built
    assert changed.id != first.id


def test_nothing_to_build_from_is_an_error(store: ImageStore) -> None:
    with pytest.raises(BuildError, match="nothing to build from"):
        build(store, BuildSpec(names=("app",)))


def test_a_missing_source_is_an_error_and_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no such file"):
        build(store, BuildSpec(names=("app",), copies=((tmp_path / "nosuch", "/x"),)))
    assert not store.image_dir.exists()


@pytest.mark.parametrize("name", ["-oDir::Etc=/x", "Bad", "a b", "../x", ""])
def test_package_names_cannot_be_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildError, match="not a package name"):
        fetch_packages([name], tmp_path)


def test_documentation_stays_out_and_licences_stay_in() -> None:
    assert not is_wanted("usr/share/doc/nginx/README", DEFAULT_EXCLUDES)
    assert not is_wanted("usr/share/man/man1/ls.1.gz", DEFAULT_EXCLUDES)
    assert is_wanted("usr/share/doc/nginx/copyright", DEFAULT_EXCLUDES)
    assert is_wanted("usr/bin/nginx", DEFAULT_EXCLUDES)
