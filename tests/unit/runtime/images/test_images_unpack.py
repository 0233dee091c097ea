from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest

from podling.runtime.images.errors import InvalidImageError
from podling.runtime.images.limits import Limits
from podling.runtime.images.unpack import Unpacker
from unit.runtime.images.layers import directory, entry, hard_link, layer, symlink


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return path


def unpack(root: Path, *layers: bytes, limits: Limits | None = None) -> Unpacker:
    with Unpacker(root, limits=limits) as unpacker:
        for one in layers:
            unpacker.apply(io.BytesIO(one))
    return unpacker


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_files_directories_and_links_come_out_as_they_went_in(root: Path) -> None:
    unpack(
        root,
        layer(
            directory("usr/", mode=0o555, mtime=1000),
            entry("usr/file", b"content", mode=0o4755, mtime=2000),
            hard_link("usr/again", "usr/file"),
            symlink("link", "/usr/file"),
            entry("pipe", type=tarfile.FIFOTYPE),
        ),
    )
    found = os.stat(root / "usr/file")
    assert (root / "usr/file").read_bytes() == b"content"
    assert (found.st_mode & 0o7777, found.st_mtime, found.st_nlink) == (0o4755, 2000, 2)
    assert (os.stat(root / "usr").st_mode & 0o7777, os.stat(root / "usr").st_mtime) == (0o555, 1000)
    assert os.readlink(root / "link") == "/usr/file"
    assert (root / "pipe").is_fifo()


def test_parents_that_no_entry_names_are_made(root: Path) -> None:
    unpack(root, layer(entry("a/b/c", b"x")))
    assert (root / "a/b/c").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../outside/new", "a/../../outside/new", "..", "a/.."])
def test_dotdot_in_a_name_is_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidImageError, match="leads out of the image"):
        unpack(root, layer(entry(name, b"x")))
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_an_absolute_name_stays_inside(root: Path) -> None:
    unpack(root, layer(entry("/etc/podling-test", b"x")))
    assert names(root) == {"etc", "etc/podling-test"}
    assert not os.path.exists("/etc/podling-test")


@pytest.mark.parametrize(
    "target", ["{outside}", "../outside", "../../../../../../..{outside}", "a/../../outside"]
)
def test_a_symlink_does_not_lead_a_later_entry_out(root: Path, target: str) -> None:
    target = target.format(outside=root.parent / "outside")
    unpack(root, layer(symlink("door", target), entry("door/new", b"x"), entry("door/secret", b"changed")))
    assert os.listdir(root.parent / "outside") == ["secret"]
    assert (root.parent / "outside/secret").read_text() == "secret"


def test_a_symlink_of_a_lower_layer_does_not_lead_out(root: Path) -> None:
    outside = str(root.parent / "outside")
    unpack(
        root,
        layer(symlink("door", outside)),
        layer(entry("door/new", b"x")),
        layer(entry("door/.wh.secret", b"")),
    )
    assert os.listdir(outside) == ["secret"]


def test_a_chain_of_symlinks_does_not_lead_out(root: Path) -> None:
    unpack(
        root, layer(symlink("a", ".."), symlink("b", "a/.."), symlink("c", "b/outside"), entry("c/new", b"x"))
    )
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_a_file_over_a_symlink_replaces_it_and_does_not_write_through(root: Path) -> None:
    secret = root.parent / "outside/secret"
    unpack(root, layer(symlink("file", str(secret)), entry("file", b"new")))
    assert secret.read_text() == "secret"
    assert (root / "file").read_bytes() == b"new"
    assert not (root / "file").is_symlink()


def test_symlinks_that_go_in_circles_are_an_error(root: Path) -> None:
    with pytest.raises(InvalidImageError):
        unpack(root, layer(symlink("a", "b"), symlink("b", "a"), entry("a/file", b"x")))


def test_a_dangling_symlink_gets_its_target_made_inside(root: Path) -> None:
    unpack(root, layer(symlink("var/lock", "/run/lock"), entry("var/lock/file", b"x")))
    assert (root / "run/lock/file").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["{outside}/secret", "../outside/secret", "door/secret"])
def test_a_hard_link_to_the_outside_is_refused(root: Path, target: str) -> None:
    target = target.format(outside=root.parent / "outside")
    with pytest.raises(InvalidImageError):
        unpack(root, layer(symlink("door", str(root.parent / "outside")), hard_link("stolen", target)))
    assert not (root / "stolen").exists()


def test_a_hard_link_to_a_symlink_links_the_symlink_itself(root: Path) -> None:
    unpack(root, layer(symlink("door", str(root.parent / "outside/secret")), hard_link("again", "door")))
    assert (root / "again").is_symlink()


def test_device_nodes_are_skipped_and_told(root: Path) -> None:
    unpacker = unpack(
        root,
        layer(
            entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
            # To overlayfs a 0:0 character device in a lower directory is a whiteout.
            entry("etc", type=tarfile.CHRTYPE, devmajor=0, devminor=0),
        ),
    )
    assert unpacker.progress.skipped_devices == ["dev/null", "dev/sda", "etc"]
    assert names(root) == {"dev"}


def test_a_whiteout_hides_what_lower_layers_brought(root: Path) -> None:
    unpack(root, layer(entry("a/x", b"1"), entry("a/y", b"1")), layer(entry("a/.wh.x", b"")))
    assert names(root) == {"a", "a/y"}


def test_a_whiteout_of_a_directory_takes_all_below_it(root: Path) -> None:
    unpack(root, layer(entry("a/b/c/d", b"1"), entry("e", b"1")), layer(entry(".wh.a", b"")))
    assert names(root) == {"e"}


def test_a_whiteout_spares_what_its_own_layer_adds(root: Path) -> None:
    added = (entry("a/new", b"2"), entry(".wh.a", b""))
    for order in (added, added[::-1]):
        unpack(root, layer(entry("a/old", b"1")), layer(*order))
        assert names(root) == {"a", "a/new"}


def test_an_opaque_directory_shows_only_its_own_layer(root: Path) -> None:
    lower = layer(entry("a/old", b"1"), entry("a/deep/old", b"1"), entry("b", b"1"))
    upper = (directory("a/"), entry("a/new", b"2"), entry("a/deep/new", b"2"), entry("a/.wh..wh..opq", b""))
    for order in (upper, (upper[0], upper[3], upper[1], upper[2])):
        unpack(root, lower, layer(*order))
        assert names(root) == {"a", "a/new", "a/deep", "a/deep/new", "b"}


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh..."])
def test_a_whiteout_of_its_own_or_the_parent_directory_is_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidImageError, match="whiteout"):
        unpack(root, layer(directory("a"), entry(name, b"")))
    assert (root.parent / "outside/secret").exists()


def test_a_directory_replaces_a_file_and_a_file_a_directory(root: Path) -> None:
    lower = layer(entry("a", b"1"), entry("b/c", b"1"))
    unpack(root, lower, layer(directory("a"), entry("a/new", b"2"), entry("b", b"2")))
    assert names(root) == {"a", "a/new", "b"}
    assert (root / "b").read_bytes() == b"2"


def test_a_file_where_a_directory_is_needed_is_an_error_that_names_the_entry(root: Path) -> None:
    with pytest.raises(InvalidImageError, match="file/child"):
        unpack(root, layer(entry("file", b"1"), entry("file/child", b"1")))


def test_the_bytes_of_an_image_are_bounded_over_its_layers(root: Path) -> None:
    half = layer(entry("a", b"x" * 600))
    with pytest.raises(InvalidImageError, match="more than 1000 bytes"):
        unpack(root, half, half, limits=Limits(max_bytes=1000))


def test_a_sparse_bomb_is_refused_before_it_is_written(root: Path) -> None:
    info = tarfile.TarInfo("bomb")
    info.size = 1 << 50
    with pytest.raises(InvalidImageError, match="unpacks to more than"):
        unpack(root, info.tobuf(tarfile.PAX_FORMAT) + b"\0" * 10240)
    assert names(root) == set()


def test_the_number_of_files_is_bounded(root: Path) -> None:
    with pytest.raises(InvalidImageError, match="more than 10 files"):
        unpack(root, layer(*(entry(f"f{n}", b"") for n in range(20))), limits=Limits(max_entries=10))


def test_a_huge_extended_header_is_refused_unread(root: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(InvalidImageError, match="extended header"):
        unpack(root, info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)


def test_free_space_is_kept(root: Path) -> None:
    with pytest.raises(OSError, match="no space left") as caught:
        unpack(root, layer(entry("a", b"x" * (2 << 20))), limits=Limits(min_free_bytes=1 << 62))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "data", [b"not a tar at all" * 100, b"\xff" * 512, b"", layer(entry("a", b"x" * 2000))[:1024]]
)
def test_broken_tars_are_invalid_images(root: Path, data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        unpack(root, data)


def test_attributes_that_steer_overlayfs_are_dropped_and_user_attributes_kept(root: Path) -> None:
    info, data = entry("file", b"x")
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/",
        "SCHILY.xattr.user.colour": "blue",
    }
    unpack(root, layer((info, data)))
    try:
        found = os.listxattr(root / "file")
    except OSError:
        pytest.skip("the file system has no extended attributes")
    assert [name for name in found if not name.startswith("security.")] in (["user.colour"], [])


def test_directory_symlinks_are_kept_for_packages_only(root: Path) -> None:
    os.symlink("usr/lib", root / "lib")
    package = layer(directory("./lib"), entry("./lib/x", b"1"))
    with Unpacker(root, keep_directory_symlinks=True) as unpacker:
        unpacker.apply(io.BytesIO(package))
    assert (root / "usr/lib/x").exists()
    unpack(root, package)
    assert not (root / "lib").is_symlink()


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    many = layer(*(entry(f"d{n}/e/f", b"x") for n in range(200)), entry(".wh.d3", b""))
    unpack(root, many)
    with pytest.raises(InvalidImageError):
        unpack(root, layer(entry("a", b"1"), entry("a/b", b"1")))
    assert len(os.listdir("/proc/self/fd")) == before
