"""What the store takes of the disk and gives back: holds of other processes, a disk that is really full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.linux import mounts
from podling.runtime.cri import messages as cri
from podling.runtime.images.errors import ImageInUseError
from podling.runtime.images.limits import Limits
from podling.runtime.images.prune import prune
from podling.runtime.images.service import ANNOTATION_LAST_USED, StoreImageService, chain_id
from podling.runtime.images.store import ImageStore
from podling.runtime.images.usage import measure
from unit.runtime.images.layers import docker_archive, entry, hard_link, layer

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.mount_tmpfs(place, size_bytes=16 * MIB)
    yield place
    mounts.unmount(place)


def load(store: ImageStore, tmp_path: Path, *tags: str, size: int = 1000) -> str:
    archive = tmp_path / "archive.tar"
    return_id = docker_archive(archive, [layer(entry("data", os.urandom(size)))], tags=list(tags))
    store.import_archive(archive)
    archive.unlink()
    return return_id


def du(path: Path) -> int:
    command = ["du", "-s", "--block-size=1", path]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.split()[0])


def test_usage_is_what_du_says_of_blobs_and_root_file_systems(store: ImageStore, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    archive = tmp_path / "archive.tar"
    one = layer(entry("a", data), hard_link("b", "a"), entry("c/d", data))
    docker_archive(archive, [one, layer(entry("c/.wh.d", b""))], tags=["app"])
    (record,) = store.import_archive(archive)
    usage = store.usage()
    # Beside image.json and the directory of root file systems, which is not counted.
    expected = du(store.layout.blobs) + du(store.rootfs_path(record)) + du(store.layout.downloads)
    assert usage.disk_bytes == expected
    assert usage.disk_bytes == ImageStore(store.image_dir).usage().disk_bytes
    assert measure(store.rootfs_path(record)).inodes == 3  # itself, a which is b, c


async def test_image_fs_info_and_verbose_status(store: ImageStore, tmp_path: Path) -> None:
    load(store, tmp_path, "app", size=MIB)
    service = StoreImageService(store)
    (usage,) = (await service.image_fs_info(cri.ImageFsInfoRequest())).image_filesystems
    assert usage.fs_id is not None
    assert usage.fs_id.mountpoint == str(store.image_dir)
    assert usage.used_bytes is not None
    assert usage.used_bytes > 2 * MIB  # the blob and the file
    status = await service.image_status(
        cri.ImageStatusRequest(image=cri.ImageSpec(image="app"), verbose=True)
    )
    (record,) = store.list()
    assert chain_id(record.config.rootfs.diff_ids) in status.info["info"]
    assert '"Cmd":["/bin/true"]' in status.info["info"]
    assert status.image is not None
    assert status.image.pinned  # loaded: no registry has it
    assert (
        await service.image_status(cri.ImageStatusRequest(image=cri.ImageSpec(image="no name")))
    ).image is None
    await service.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image="no name")))


async def test_a_hold_dates_the_last_use(store: ImageStore, tmp_path: Path) -> None:
    load(store, tmp_path, "app")
    (record,) = store.list()
    os.utime(store.layout.images / record.hex_id / "image.json", (1000, 1000))
    assert store.last_used_s(record) == 1000
    with store.hold(record):
        pass
    assert store.last_used_s(record) > 1000
    (image,) = (await StoreImageService(store).list_images(cri.ListImagesRequest())).images
    assert image.spec is not None
    assert float(image.spec.annotations[ANNOTATION_LAST_USED]) == pytest.approx(
        store.last_used_s(record), abs=0.01
    )


def test_prune_takes_dangling_images_and_spares_the_rest(store: ImageStore, tmp_path: Path) -> None:
    old = load(store, tmp_path, "app", size=MIB)
    new = load(store, tmp_path, "app")
    pruned = prune(store)
    assert pruned.lines == [f"deleted: {old}"]
    assert pruned.freed_bytes > 2 * MIB
    assert [record.id for record in store.list()] == [new]
    assert prune(store).lines == []


def test_prune_of_everything_spares_what_any_process_uses(store: ImageStore, tmp_path: Path) -> None:
    load(store, tmp_path, "running")
    load(store, tmp_path, "stopped")
    idle = load(store, tmp_path, "idle", "idle:2")
    store.add_reference(store.get("stopped"), "c1")
    program = (
        "import sys\nfrom podling.runtime.images.store import ImageStore\n"
        "store = ImageStore(sys.argv[1])\nhold = store.hold(store.get('running'))\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, store.image_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert prune(store, every=True).lines == [
            "untagged: idle:latest",
            "untagged: idle:2",
            f"deleted: {idle}",
        ]
        with pytest.raises(ImageInUseError, match="being used by stopped container c1"):
            store.remove("stopped")
        holder.kill()
    store.drop_reference("c1")
    store.drop_reference("c1")
    assert len(prune(store, every=True).lines) == 4
    assert store.list() == []
    assert not any(store.layout.blobs.iterdir())
    assert not any(store.layout.references.iterdir())
    left = {path.name for path in (store.image_dir / "locks").iterdir()}
    assert left == {"index", "collect"}


def test_prune_takes_what_interrupted_work_left(store: ImageStore, tmp_path: Path) -> None:
    load(store, tmp_path, "app")
    (store.layout.downloads / ("0" * 64)).write_bytes(b"x" * MIB)
    (store.layout.blobs / ("1" * 64)).write_bytes(b"x" * MIB)
    half = store.image_dir / "tmp" / "killed"
    half.mkdir()
    (half / "file").write_bytes(b"x")
    assert prune(store).freed_bytes >= 2 * MIB
    assert not any(store.layout.downloads.iterdir())
    assert not half.exists()
    assert not (store.layout.blobs / ("1" * 64)).exists()


def test_podling_image_prune_asks_first(store: ImageStore, tmp_path: Path) -> None:
    old = load(store, tmp_path, "app")
    load(store, tmp_path, "app")
    command = [sys.executable, "-m", "podling.cli", "image", "--image-dir", str(store.image_dir), "prune"]
    asked = subprocess.run(command, input="n\n", capture_output=True, text=True, check=True).stdout
    assert asked.startswith("WARNING! This will remove all dangling images.\nAre you sure you want to")
    assert len(store.list()) == 2
    out = subprocess.run([*command, "-f"], capture_output=True, text=True, check=True).stdout
    assert out.startswith(f"Deleted Images:\ndeleted: {old}\n\nTotal reclaimed space: ")
    assert len(store.list()) == 1


@pytest.mark.parametrize("megabytes", [6, 12])
def test_a_full_disk_leaves_nothing_half_made(small_disk: Path, tmp_path: Path, megabytes: int) -> None:
    """6: the blob fits and the unpacking does not, with what else is there; 12: not even twice itself."""
    store = ImageStore(small_disk / "images", limits=Limits(min_free_bytes=0))
    load(store, tmp_path, "small")
    (small_disk / "ballast").write_bytes(b"x" * 6 * MIB)
    before = sorted(path for path in store.image_dir.rglob("*"))
    with pytest.raises(OSError, match=r"[Nn]o space left"):
        load(store, tmp_path, "big", size=megabytes * MIB)
    assert sorted(path for path in store.image_dir.rglob("*")) == before
    (small_disk / "ballast").unlink()
    assert store.get("small")
    load(store, tmp_path, "other", size=2 * MIB)
