"""The kubelet's image garbage collection over a real store on a disk that really fills up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.kubelet.image_gc import ImageGarbageCollector, ImageGCError, ImageGCPolicy
from podling.linux import mounts
from podling.runtime.cri import messages as cri
from podling.runtime.images.archive import load_archive
from podling.runtime.images.limits import Limits
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import docker_archive, entry, layer

MIB = 1 << 20


class Containers:
    """A runtime whose containers use nothing: what is used, only the store knows."""

    async def list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        return cri.ListContainersResponse()


class Events:
    def __init__(self) -> None:
        self.told: list[str] = []

    def node(self, name: str, type_: str, reason: str, message: str) -> None:
        self.told.append(reason)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 40 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounts.mount_tmpfs(place, size_bytes=40 * MIB)
    yield place
    mounts.unmount(place)


def add(store: ImageStore, tmp_path: Path, name: str, *, pulled: bool = True) -> None:
    """An image that takes 8 MiB: 4 as a blob, 4 unpacked."""
    archive = tmp_path / "archive.tar"
    docker_archive(archive, [layer(entry(name, os.urandom(4 * MIB)))], tags=[name])
    ((record, names),) = load_archive(store, archive)
    if pulled:  # as a pull leaves it: a registry has it, too
        with store.session() as session:
            session.name(record, names, [f"docker.io/library/{name}@{record.manifest_digest}"])
    archive.unlink()


async def test_a_full_disk_is_freed_of_what_nobody_uses(disk: Path, tmp_path: Path) -> None:
    store = ImageStore(disk / "images", limits=Limits(min_free_bytes=0))
    for name in ("oldest", "held", "loaded", "newest"):
        add(store, tmp_path, name, pulled=name != "loaded")
    for number, name in enumerate(("oldest", "held", "loaded", "newest")):
        with store.hold(store.get(name)) as hold:
            os.utime(hold.fd, (1000 + number, 1000 + number))
    events = Events()
    now = [2_000_000_000.0]
    collector = ImageGarbageCollector(
        Containers(),  # type: ignore[arg-type]  # the part of a runtime that is asked here
        StoreImageService(store),
        events,  # type: ignore[arg-type]
        node_name="n",
        policy=ImageGCPolicy(high_threshold_percent=70, low_threshold_percent=65),
        clock=lambda: now[0],
    )
    other_node = ImageStore(disk / "images").hold(store.get("held"))
    with pytest.raises(ImageGCError, match="freed 0 bytes"):
        await collector.collect()  # nothing is old enough yet
    now[0] += 3600
    await collector.collect()
    left = {record.repo_tags[0].rpartition("/")[2] for record in store.list()}
    assert left == {"held:latest", "loaded:latest", "newest:latest"}
    now[0] += 3600
    (disk / "ballast").write_bytes(b"x" * 14 * MIB)
    with pytest.raises(ImageGCError, match="Insufficient free disk space"):
        await collector.collect()
    left = {record.repo_tags[0].rpartition("/")[2] for record in store.list()}
    assert left == {"held:latest", "loaded:latest"}
    assert (store.rootfs_path(store.get("held")) / "held").stat().st_size == 4 * MIB
    other_node.release()
    now[0] += 3600
    await collector.collect()
    assert [record.repo_tags[0] for record in store.list()] == ["docker.io/library/loaded:latest"]
    assert events.told == ["FreeDiskSpaceFailed", "FreeDiskSpaceFailed"]
