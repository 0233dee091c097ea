from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.errors import (
    AmbiguousReferenceError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidImageError,
    InvalidReferenceError,
)
from podling.runtime.images.limits import Limits
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import docker_archive, entry, hard_link, layer, symlink

BASE = layer(entry("bin/true", b"#!", mode=0o755), entry("etc/os", b"base"))
TOP = layer(entry("etc/os", b"top"), entry("etc/.wh.gone", b""))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "image.tar"


def everything(store: ImageStore) -> set[str]:
    """What is in the store, but for locks and empty folders."""
    files = {str(p.relative_to(store.image_dir)) for p in store.image_dir.rglob("*") if p.is_file()}
    return {name for name in files if not name.startswith("locks/")} - {"oci-layout", "index.json"}


def test_an_empty_store_answers_without_being_there(store: ImageStore) -> None:
    assert list(store.list()) == []
    assert store.resolve("busybox") is None
    assert not store.image_dir.exists()


def test_a_docker_archive_becomes_an_image(store: ImageStore, archive: Path) -> None:
    image_id = docker_archive(archive, [BASE, TOP], tags=["busybox:1"])
    (record,) = store.import_archive(archive)
    assert record.id == image_id
    assert record.repo_tags == ("docker.io/library/busybox:1",)
    assert record.repo_digests == ()
    assert record.size_bytes == 9
    assert (record.run_config.cmd, record.run_config.env) == (["/bin/true"], ["A=1"])
    assert (record.uid, record.username) == (0, "")
    assert (store.rootfs_path(record) / "etc/os").read_text() == "top"
    assert os.access(store.rootfs_path(record) / "bin/true", os.X_OK)


def test_an_image_is_found_by_every_form_of_its_name(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["busybox"])
    (record,) = store.import_archive(archive)
    for ref in (
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        f"busybox@{record.manifest_digest}",
        f"busybox:other@{record.manifest_digest}",
        record.id,
        record.hex_id,
        record.hex_id[:12],
        record.id[:20],
    ):
        assert store.resolve(ref) == record, ref
    for ref in ("busybox:2", "other", f"other@{record.manifest_digest}", "f" * 64, "sha256:" + "f" * 64):
        assert store.resolve(ref) is None, ref
    with pytest.raises(InvalidReferenceError):
        store.resolve("No Such Name")
    with pytest.raises(ImageNotFoundError, match="No such image: nosuch"):
        store.get("nosuch")


def test_a_prefix_of_two_ids_is_ambiguous(store: ImageStore, archive: Path) -> None:
    seen: dict[str, str] = {}
    for number in range(300):
        image_id = docker_archive(archive, [BASE], author=str(number)).removeprefix("sha256:")
        if image_id[:3] in seen:
            break
        seen[image_id[:3]] = str(number)
    store.import_archive(archive)
    docker_archive(archive, [BASE], author=seen[image_id[:3]])
    store.import_archive(archive)
    with pytest.raises(AmbiguousReferenceError):
        store.resolve(image_id[:3])


def test_loading_twice_changes_nothing(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE, TOP], tags=["a", "b"])
    first = store.import_archive(archive)
    files = everything(store)
    assert store.import_archive(archive) == first
    assert everything(store) == files
    assert len(list(store.list())) == 1


def test_a_name_moves_to_the_newer_image_and_the_older_dangles(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["app"])
    (old,) = store.import_archive(archive)
    docker_archive(archive, [BASE, TOP], tags=["app"])
    (new,) = store.import_archive(archive)
    assert store.resolve("app") == new
    dangling = store.resolve(old.id)
    assert dangling is not None
    assert dangling.repo_tags == ()


def test_a_second_store_object_sees_changes_at_once(store: ImageStore, archive: Path) -> None:
    other = ImageStore(store.image_dir)
    assert other.resolve("app") is None
    docker_archive(archive, [BASE], tags=["app"])
    store.import_archive(archive)
    assert other.resolve("app") == store.resolve("app")
    store.remove("app")
    assert other.resolve("app") is None


def test_removal_takes_everything(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE, TOP], tags=["app"])
    (record,) = store.import_archive(archive)
    assert store.remove("app") == ["Untagged: app:latest", f"Deleted: {record.id}"]
    assert everything(store) == set()
    with pytest.raises(ImageNotFoundError):
        store.remove("app")


def test_removal_spares_layers_that_another_image_shares(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["small"])
    store.import_archive(archive)
    docker_archive(archive, [BASE, TOP], tags=["large"])
    store.import_archive(archive)
    store.remove("small")
    subprocess.run(["sha256sum", "-c", "--quiet"], input=_sums(store), check=True, text=True)
    shutil.rmtree(store.layout.images)
    store = ImageStore(store.image_dir)
    store.import_archive(archive)
    assert (store.rootfs_path(store.get("large")) / "bin/true").exists()


def _sums(store: ImageStore) -> str:
    return "".join(f"{path.name}  {path}\n" for path in store.layout.blobs.iterdir())


def test_a_name_of_several_is_only_untagged(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["a", "b"])
    (record,) = store.import_archive(archive)
    with pytest.raises(ImageInUseError, match="referenced in multiple repositories"):
        store.remove(record.id)
    assert store.remove("a") == ["Untagged: a:latest"]
    assert store.get("b").repo_tags == ("docker.io/library/b:latest",)
    store.tag("b", "c")
    assert store.remove(record.id, force=True)[-1] == f"Deleted: {record.id}"


def test_an_image_in_use_is_not_removed(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["app"])
    (record,) = store.import_archive(archive)
    other = ImageStore(store.image_dir)
    with other.hold(record), other.hold(record):
        with pytest.raises(ImageInUseError, match="being used"):
            store.remove("app", force=True)
        assert store.resolve("app") is not None
    store.remove("app")
    with pytest.raises(ImageNotFoundError):
        other.hold(record)


def test_a_wrong_diff_id_leaves_nothing(store: ImageStore, archive: Path) -> None:
    docker_archive(
        archive, [BASE], tags=["app"], rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    )
    with pytest.raises(InvalidImageError, match="but the config says"):
        store.import_archive(archive)
    assert store.resolve("app") is None
    assert not any(store.layout.images.iterdir())
    assert not any((store.image_dir / "tmp").iterdir())
    store.collect()
    assert everything(store) == set()


def test_a_hostile_layer_leaves_nothing(store: ImageStore, archive: Path, tmp_path: Path) -> None:
    evil = layer(symlink("door", str(tmp_path)), entry("door/evil", b"x"), entry("../../evil", b"x"))
    docker_archive(archive, [evil], tags=["evil"])
    with pytest.raises(InvalidImageError, match="leads out"):
        store.import_archive(archive)
    assert not (tmp_path / "evil").exists()
    assert store.resolve("evil") is None


def test_layer_counts_must_agree(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["app"], rootfs={"type": "layers", "diff_ids": []})
    with pytest.raises(InvalidImageError, match="has 1 layers, its config 0"):
        store.import_archive(archive)


def test_limits_hold_for_archives(tmp_path: Path, archive: Path) -> None:
    docker_archive(archive, [layer(entry("a", b"x" * 5000))], tags=["app"])
    with pytest.raises(InvalidImageError, match="more than 1000 bytes"):
        ImageStore(tmp_path / "images", limits=Limits(max_bytes=1000)).import_archive(archive)


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_archives_are_taken(store: ImageStore, archive: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} program")
    docker_archive(archive, [BASE], tags=["app"])
    packed = archive.with_suffix(".packed")
    packed.write_bytes(
        subprocess.run([program, "-c"], input=archive.read_bytes(), capture_output=True, check=True).stdout
    )
    (record,) = store.import_archive(packed)
    assert record.repo_tags == ("docker.io/library/app:latest",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text " * 1000,
        b"\x1f\x8b" + b"\0" * 100,
        layer(entry("file", b"")),
        layer(entry("manifest.json", b"{")),
        layer(entry("manifest.json", b'[{"Config":"nosuch.json","Layers":[]}]')),
        layer(entry("manifest.json", b'[{"Config":"c","Layers":["../../etc/passwd"]}]'), entry("c", b"{}")),
        layer(symlink("manifest.json", "/etc/passwd")),
        layer(symlink("manifest.json", "manifest.json")),
        layer(entry("oci-layout", b"{}"), entry("index.json", b'{"manifests":[{"digest":"sha256:../x"}]}')),
        layer(entry("oci-layout", b"{}"), entry("index.json", b"[" * 100_000)),
    ],
)
def test_what_is_no_archive_is_refused(store: ImageStore, archive: Path, data: bytes) -> None:
    archive.write_bytes(data)
    with pytest.raises(InvalidImageError):
        store.import_archive(archive)
    assert list(store.list()) == []
    assert not any((store.image_dir / "tmp").iterdir())


def test_repeated_layers_of_docker_save_may_be_symlinks(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE, BASE], tags=["app"])
    with tarfile.open(archive) as tar:
        files = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    linked = [
        symlink("layer1/layer.tar", "../layer0/layer.tar")
        if member.name == "layer1/layer.tar"
        else (member, data)
        for member, data in files
    ]
    archive.write_bytes(layer(*linked))
    assert len(store.import_archive(archive)) == 1


def test_a_name_can_be_given_to_an_archive_of_one_image(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE])
    (record,) = store.import_archive(archive, ["mine:v1"])
    assert record.repo_tags == ("docker.io/library/mine:v1",)


def oci_archive(path: Path, layers: list[bytes], *, damage: bool = False) -> None:
    """An oci-archive with one gzip layer each, behind a nested index for two platforms."""
    blobs: dict[str, bytes] = {}

    def put(data: bytes, media_type: str, **more: object) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[f"blobs/sha256/{digest[7:]}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    oci = "application/vnd.oci.image."
    diff_ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    manifests = []
    for architecture in ("sparc", "amd64", "arm64"):
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{oci}manifest.v1+json",
            "config": put(json.dumps(config).encode(), f"{oci}config.v1+json"),
            "layers": [put(gzip.compress(one, mtime=0), f"{oci}layer.v1.tar+gzip") for one in layers],
        }
        manifests.append(
            put(
                json.dumps(manifest).encode(),
                f"{oci}manifest.v1+json",
                platform={"os": "linux", "architecture": architecture},
            )
        )
    inner = put(json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(), f"{oci}index.v1+json")
    inner["annotations"] = {"io.containerd.image.name": "docker.io/library/multi:1"}
    files = {
        "oci-layout": b"{}",
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode(),
    }
    if damage:
        name = next(name for name, data in blobs.items() if data.startswith(b"\x1f\x8b"))
        blobs[name] = blobs[name][:-1] + b"\xff"
    path.write_bytes(layer(*(entry(name, data) for name, data in (files | blobs).items())))


def test_an_oci_archive_gives_the_image_of_this_machine(store: ImageStore, archive: Path) -> None:
    oci_archive(archive, [BASE, TOP])
    (record,) = store.import_archive(archive)
    assert record.repo_tags == ("docker.io/library/multi:1",)
    assert record.config.architecture in ("amd64", "arm64")
    assert (store.rootfs_path(record) / "etc/os").read_text() == "top"


def test_a_damaged_blob_is_noticed(store: ImageStore, archive: Path) -> None:
    oci_archive(archive, [BASE], damage=True)
    with pytest.raises(InvalidImageError, match="does not match its descriptor"):
        store.import_archive(archive)
    assert list(store.list()) == []


def test_a_root_file_system_becomes_an_image(store: ImageStore, tmp_path: Path) -> None:
    plain = tmp_path / "rootfs.tar.gz"
    plain.write_bytes(gzip.compress(layer(entry("bin/sh", b"#!"), hard_link("bin/ash", "bin/sh"))))
    record = import_rootfs(store, plain, "mine", config=RunConfig(cmd=["/bin/sh"], user="app:app"))
    assert record.repo_tags == ("docker.io/library/mine:latest",)
    assert (record.uid, record.username) == (None, "app")
    assert (store.rootfs_path(record) / "bin/ash").exists()


def test_what_a_killed_process_left_is_swept_by_the_next_session(store: ImageStore, archive: Path) -> None:
    store.layout.ensure()
    left = store.image_dir / "tmp" / "left"
    (left / "rootfs").mkdir(parents=True)
    (store.layout.blobs / ("0" * 64)).write_bytes(b"half")
    with store.session() as session:
        assert not left.exists()
        # A living session's directory is not swept by another.
        ImageStore(store.image_dir).layout.sweep()
        assert session.scratch.exists()
    assert everything(store) == set()


def test_a_foreign_entry_in_the_index_is_not_an_image(store: ImageStore, archive: Path) -> None:
    docker_archive(archive, [BASE], tags=["app"])
    store.import_archive(archive)
    index = json.loads(store.layout.index_path.read_bytes())
    index["manifests"].append({"mediaType": "x", "digest": "sha256:" + "1" * 64, "size": 1})
    store.layout.index_path.write_text(json.dumps(index))
    assert len(list(store.list())) == 1


def test_reading_stays_cheap(store: ImageStore, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_archive(archive, [BASE], tags=["app"])
    store.import_archive(archive)
    record = store.get("app")
    monkeypatch.setattr(io, "open", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    assert store.get("app") is record
