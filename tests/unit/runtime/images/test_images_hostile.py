"""Images by people who mean harm, beyond what `test_images_unpack.py` has: each is refused in words, or
comes to nothing, and nothing of a refused one is left in the store or outside of it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from podling.runtime.cri import codec
from podling.runtime.cri import messages as cri
from podling.runtime.images import inroot
from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.errors import ImageError, InvalidImageError
from podling.runtime.images.limits import Limits
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore
from podling.runtime.images.unpack import Unpacker
from unit.runtime.images.layers import directory, docker_archive, entry, hard_link, layer, symlink

BLOCK = 512


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return path


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def unpack(root: Path, *layers: bytes, limits: Limits | None = None) -> Unpacker:
    with Unpacker(root, limits=limits) as unpacker:
        for one in layers:
            unpacker.apply(io.BytesIO(one))
    return unpacker


def untouched(root: Path) -> bool:
    outside = root.parent / "outside"
    return os.listdir(outside) == ["secret"] and (outside / "secret").read_text() == "secret"


def assert_nothing_left(store: ImageStore) -> None:
    assert store.list() == []
    for place in ("images", "tmp", "downloads", "blobs/sha256"):
        assert os.listdir(store.image_dir / place) == []
    left = set(os.listdir(store.image_dir / "locks"))
    assert left <= {"index", "collect"}


# names


@pytest.mark.parametrize("name", ["a\nb", "a\tb\x1b[2J", "ümlaut", "\udcff\udcfe", "a b", "-rf", "*"])
def test_strange_names_are_files_like_any(root: Path, name: str) -> None:
    unpack(root, layer(entry(name, b"x")))
    assert os.listdir(root) == [name]


def with_pax(name: str, data: bytes, **headers: str) -> tuple[tarfile.TarInfo, bytes]:
    info, content = entry(name, data)
    info.pax_headers = headers
    return info, content


@pytest.mark.parametrize("path", ["a\0b", "\0", "x/\0/y", "/etc/passwd\0.txt"])
def test_a_name_with_a_zero_byte_is_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidImageError):
        unpack(root, layer(with_pax("file", b"x", path=path)))
    assert not [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["x" * 300, "d/" * 3000 + "f", "a/" + "y" * 5000])
def test_a_name_too_long_for_the_kernel_is_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidImageError, match="too long"):
        unpack(root, layer(entry(name, b"x")))


def test_of_entries_of_one_name_the_last_one_counts(root: Path) -> None:
    outside = str(root.parent / "outside")
    unpack(
        root,
        layer(
            entry("a", b"1"),
            symlink("a", outside),
            directory("a"),
            entry("a/secret", b"2"),
            symlink("b", f"{outside}/secret"),
            hard_link("c", "b"),
            entry("c", b"3"),
            entry("b", b"4"),
        ),
    )
    assert untouched(root)
    assert (root / "a/secret").read_bytes() == b"2"
    assert ((root / "b").read_bytes(), (root / "c").read_bytes()) == (b"4", b"3")


def test_a_directory_swapped_for_a_symlink_between_entries_of_one_parent(root: Path) -> None:
    """The descriptor of the parent is kept from entry to entry: it must not be the wrong one."""
    outside = str(root.parent / "outside")
    entries = [entry("d/1", b"1"), entry("d/2", b"2"), symlink("d", outside), entry("d/secret", b"3")]
    unpack(root, layer(*entries))
    unpack(root, layer(directory("d"), entry("d/x", b"1"), symlink("d", outside), entry("d/y/secret", b"3")))
    assert untouched(root)


def test_a_chain_of_symlinks_longer_than_the_kernel_follows(root: Path) -> None:
    links = [symlink(f"l{n}", f"l{n + 1}") for n in range(200)]
    with pytest.raises(InvalidImageError):
        unpack(root, layer(*links, symlink("l200", str(root.parent / "outside")), entry("l0/new", b"x")))
    assert untouched(root)


@pytest.mark.parametrize("seed", range(8))
def test_random_layers_never_leave_the_root(root: Path, seed: int) -> None:
    """Symlinks, hard links, directories, files and whiteouts of a few names, in any order and nesting."""
    dice = random.Random(seed)
    outside = root.parent / "outside"
    targets = [str(outside), f"{outside}/secret", "..", "../outside", "../../outside/secret", "/", "a", "b/c"]

    def name() -> str:
        return "/".join(dice.choice("abc") for _ in range(dice.randint(1, 3)))

    def one() -> tuple[tarfile.TarInfo, bytes]:
        kind = dice.randrange(6)
        if kind == 0:
            return symlink(name(), dice.choice(targets))
        if kind == 1:
            return hard_link(name(), dice.choice([name(), "a/secret", str(outside / "secret")]))
        if kind == 2:
            return directory(name())
        if kind == 3:
            return entry(f"{name()}/.wh.{dice.choice(['a', 'b', 'secret', '.wh..opq'])}", b"")
        return entry(f"{name()}/{dice.choice(['secret', 'a'])}", b"x")

    for _ in range(60):
        try:
            unpack(root, layer(*(one() for _ in range(dice.randint(1, 12)))))
        except InvalidImageError:
            continue
        finally:
            assert untouched(root)
    assert (outside / "secret").stat().st_nlink == 1


# depth


def test_a_tree_deeper_than_recursion_and_descriptors_is_removed(root: Path) -> None:
    """Each layer makes two hundred more levels below a symlink to the deepest so far. Of links the kernel
    follows forty in all its attempts at one path together, and it may try three times."""
    deep = "d/" * 200
    layers = [layer(directory(deep), symlink("end0", deep))]
    for number in range(10):
        layers.append(
            layer(directory(f"end{number}/{deep}"), symlink(f"end{number + 1}", f"end{number}/{deep}"))
        )
    try:
        unpack(root, *layers)
        unpack(root, layer(entry(".wh.d", b"")))
        assert not (root / "d").exists()
    finally:
        # pytest cannot remove it either.
        subprocess.run(["rm", "-rf", root], check=True)


def test_removing_a_tree_follows_nothing_and_minds_taken_names(root: Path) -> None:
    outside = str(root.parent / "outside")
    entries = [entry(f"t/d/{n}/.{m}/f", b"x") for n in range(3) for m in range(3)]
    unpack(
        root, layer(symlink("t/door", outside), symlink("t/d/door", outside), entry("t/.1", b""), *entries)
    )
    parent = os.open(root, os.O_RDONLY)
    try:
        inroot.remove_tree(parent, "t")
        os.symlink(outside, root / "link")
        with pytest.raises(OSError, match="Not a directory"):
            inroot.remove_tree(parent, "link")
    finally:
        os.close(parent)
    assert os.listdir(root) == ["link"]
    assert untouched(root)


# headers


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_chain_of_extended_headers_is_bounded(root: Path) -> None:
    record = b"30 comment=aaaaaaaaaaaaaaaaaa\n"
    one = header(tarfile.XHDTYPE, len(record)) + record.ljust(BLOCK, b"\0")
    with pytest.raises(InvalidImageError):
        unpack(root, one * 20_000 + header(tarfile.REGTYPE, 0) + b"\0" * 1024)


def test_global_headers_do_not_pile_up(root: Path) -> None:
    def one(number: int) -> bytes:
        value = f" key{number}={'v' * 500_000}\n"
        record = f"{len(value) + 6}{value}".encode()
        padded = record + b"\0" * (-len(record) % BLOCK)
        return header(tarfile.XGLTYPE, len(record)) + padded + header(tarfile.REGTYPE, 0, f"f{number}")

    with pytest.raises(InvalidImageError, match="global headers"):
        unpack(root, b"".join(one(number) for number in range(10)) + b"\0" * 1024)


def test_a_sparse_map_without_end_is_refused(root: Path) -> None:
    start = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    start[482] = 1  # isextended
    start[148:156] = b" " * 8
    start[148:156] = b"%06o\0 " % sum(start)
    more = b"00000000001\0" * 42 + b"\1" + b"\0" * 7
    with pytest.raises(InvalidImageError):
        unpack(root, bytes(start) + more * 20_000)


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_a_negative_size_is_refused(root: Path, store: ImageStore, tmp_path: Path, size: int) -> None:
    bad = bytearray(header(tarfile.REGTYPE, 0))
    bad[124:136] = b"\xff" + (size % (1 << 88)).to_bytes(11, "big")
    bad[148:156] = b" " * 8
    bad[148:156] = b"%06o\0 " % sum(bad)
    with pytest.raises(InvalidImageError):
        unpack(root, bytes(bad) + b"\0" * 1024)
    (tmp_path / "archive.tar").write_bytes(bytes(bad) + b"\0" * 1024)
    with pytest.raises(InvalidImageError):
        store.import_archive(tmp_path / "archive.tar")


def test_names_without_end_do_not_fill_the_memory(root: Path) -> None:
    long = "n" * 200
    many = layer(*(directory(f"{n}/{long}") for n in range(2000)))
    with pytest.raises(InvalidImageError, match="bytes of file names"):
        unpack(root, many, limits=Limits(max_name_bytes=100_000))


def test_many_entries_cost_little_memory_each(root: Path) -> None:
    many = layer(*(directory(f"d{n}") for n in range(5000)))
    tracemalloc.start()
    unpack(root, many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


# bombs


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    store = ImageStore(tmp_path / "images", limits=Limits(max_bytes=1 << 20, max_entries=100))
    bomb = compress(layer(entry("zeros", bytes(64 << 20))))
    assert len(bomb) < 100_000
    (tmp_path / "bomb").write_bytes(bomb)
    with pytest.raises(InvalidImageError, match="more than 1048576 bytes"):
        import_rootfs(store, tmp_path / "bomb", "app", config=RunConfig())
    assert_nothing_left(store)
    # Compressed twice: the archive, and the layer in it.
    (tmp_path / "twice").write_bytes(compress(bomb))
    with pytest.raises(ImageError):
        store.import_archive(tmp_path / "twice")
    docker_archive(tmp_path / "archive.tar", [bomb], tags=["app"])
    with pytest.raises(InvalidImageError, match="unpacks to more than 1048576 bytes"):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


def test_padding_without_end_stops_at_the_limit(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", limits=Limits(max_bytes=1 << 20, max_entries=100))
    padded = gzip.compress(layer(entry("small", b"x")) + bytes(16 << 20))
    docker_archive(tmp_path / "archive.tar", [padded], tags=["app"])
    with pytest.raises(InvalidImageError, match="layer unpacks to more than"):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


def test_a_sparse_member_of_an_archive_is_not_blown_up(tmp_path: Path) -> None:
    """A GNU sparse file of a terabyte in 512 bytes: `docker save` never writes one."""
    store = ImageStore(tmp_path / "images", limits=Limits(max_bytes=1 << 20))
    info = bytearray(header(tarfile.GNUTYPE_SPARSE, 0, "layer0/layer.tar"))
    info[483:495] = b"%011o\0" % (1 << 32)  # realsize
    info[148:156] = b" " * 8
    info[148:156] = b"%06o\0 " % sum(info)
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["app"], "Layers": ["layer0/layer.tar"]}])
    rest = layer(entry("c.json", config), entry("manifest.json", manifest.encode()))
    (tmp_path / "archive.tar").write_bytes(bytes(info) + rest)
    with pytest.raises(InvalidImageError, match="takes more than 1048576 bytes"):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


def test_inodes_are_kept_free(root: Path) -> None:
    if not os.statvfs(root).f_files:
        pytest.skip("the file system has no fixed number of inodes")
    with pytest.raises(OSError, match="inodes"):
        unpack(root, layer(entry("a", b"x")), limits=Limits(min_free_inodes=1 << 62))


# documents


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'[{"Config": 5}]',
        b'[{"Config": "../../../etc/passwd", "Layers": []}]',
        b'[{"Config": "/etc/passwd", "Layers": []}]',
        b'[{"Config": "manifest.json", "Layers": ["nosuch"]}]',
        b'[{"Config": "loop1", "Layers": []}]',
        b"\xff\xfe",
        b"",
    ],
)
def test_manifests_of_archives_that_are_none(store: ImageStore, tmp_path: Path, document: bytes) -> None:
    (tmp_path / "archive.tar").write_bytes(
        layer(entry("manifest.json", document), symlink("loop1", "loop2"), symlink("loop2", "loop1"))
    )
    with pytest.raises(InvalidImageError):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


@pytest.mark.parametrize(
    "config",
    [
        {"rootfs": {"diff_ids": "x"}},
        {"rootfs": {"diff_ids": ["../../x"]}},
        {"config": {"Env": {"a": 1}}},
        {"config": {"Cmd": "not a list"}},
        {"rootfs": None},
    ],
)
def test_configs_that_are_none(store: ImageStore, tmp_path: Path, config: dict[str, object]) -> None:
    docker_archive(tmp_path / "archive.tar", [layer(entry("f", b"x"))], tags=["app"], **config)
    with pytest.raises(InvalidImageError):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("0", 0, ""),
        ("4294967294:5", 4294967294, ""),
        ("4294967295", None, "4294967295"),
        ("9" * 4000, None, "9" * 4000),
        ("٣", None, "٣"),
        ("-1", None, "-1"),
        ("", 0, ""),
    ],
)
async def test_a_user_that_no_kernel_knows_does_not_break_the_list(
    store: ImageStore, tmp_path: Path, user: str, uid: int | None, username: str
) -> None:
    docker_archive(tmp_path / "archive.tar", [layer(entry("f", b"x"))], tags=["app"], config={"User": user})
    (record,) = store.import_archive(tmp_path / "archive.tar")
    assert (record.uid, record.username) == (uid, username)
    answer = await StoreImageService(store).list_images(cri.ListImagesRequest())
    assert codec.decode(cri.ListImagesResponse, codec.encode(answer)) == answer


@pytest.mark.parametrize(
    "tag", ["../../etc/passwd", "a b", "A", "x" * 300, "app:" + "t" * 129, "app@sha256:1"]
)
def test_names_of_archives_that_are_none(store: ImageStore, tmp_path: Path, tag: str) -> None:
    docker_archive(tmp_path / "archive.tar", [layer(entry("f", b"x"))], tags=[tag])
    with pytest.raises(ImageError):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


def test_a_digest_that_is_a_path_is_none(store: ImageStore, tmp_path: Path) -> None:
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": "sha256:../../../../etc/passwd",
                "size": 1,
            }
        ],
    }
    (tmp_path / "archive.tar").write_bytes(
        layer(entry("oci-layout", b"{}"), entry("index.json", json.dumps(index).encode()))
    )
    with pytest.raises(InvalidImageError, match="unsupported digest"):
        store.import_archive(tmp_path / "archive.tar")
    assert_nothing_left(store)


def test_a_layer_of_another_content_under_a_known_diff_id(store: ImageStore, tmp_path: Path) -> None:
    """A config may claim the layers of somebody else's image: it gets what it brought, or nothing."""
    good = layer(entry("secret", b"of another image"))
    docker_archive(tmp_path / "good.tar", [good], tags=["good"])
    store.import_archive(tmp_path / "good.tar")
    bad = layer(entry("secret", b"mine"))
    claimed = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(good).hexdigest()}"]}
    docker_archive(tmp_path / "bad.tar", [bad], tags=["good"], rootfs=claimed)
    with pytest.raises(InvalidImageError, match="but the config says"):
        store.import_archive(tmp_path / "bad.tar")
    assert (store.rootfs_path(store.get("good")) / "secret").read_bytes() == b"of another image"
    assert len(store.list()) == 1
