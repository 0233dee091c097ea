"""The store under several processes and SIGKILL, with archives by skopeo and real overlay mounts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from podling.linux import syscalls
from podling.runtime.images.build import BuildSpec, File, build
from podling.runtime.images.errors import PullError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.registry.client import PullSettings
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import directory, docker_archive, entry, layer

SKOPEO = shutil.which("skopeo")
needs_skopeo = pytest.mark.skipif(SKOPEO is None, reason="needs skopeo")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def skopeo(*arguments: str | Path) -> None:
    subprocess.run([str(SKOPEO), *map(str, arguments)], check=True, capture_output=True, timeout=60)


@needs_skopeo
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_archives_made_by_skopeo_from_our_store_load_again(
    store: ImageStore, tmp_path: Path, transport: str
) -> None:
    config = RunConfig(cmd=["/bin/x"], labels={"a": "b"})
    made = build(store, BuildSpec(names=("app:1",), files=(File(path="/bin/x", content="x"),), config=config))
    archive = tmp_path / "archive.tar"
    skopeo("copy", f"oci:{store.image_dir}:docker.io/library/app:1", f"{transport}:{archive}:app:2")
    other = ImageStore(tmp_path / "other")
    (loaded,) = other.import_archive(archive)
    assert loaded.repo_tags == ("docker.io/library/app:2",)
    assert loaded.run_config == made.run_config
    assert (other.rootfs_path(loaded) / "bin/x").read_text() == "x"


def _load(image_dir: Path, archive: Path, start: threading.Barrier) -> None:
    store = ImageStore(image_dir)
    start.wait(30)
    for record in store.import_archive(archive):
        assert (store.rootfs_path(record) / "d0/f0").exists()


def test_four_processes_load_at_once(store: ImageStore, tmp_path: Path) -> None:
    same, other = tmp_path / "same.tar", tmp_path / "other.tar"
    base = layer(*(entry(f"d{n % 20}/f{n}", os.urandom(2000)) for n in range(1000)))
    docker_archive(same, [base], tags=["same:1", "same:2"])
    docker_archive(other, [base, layer(entry("top", b"x"))], tags=["other"])
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    workers = [
        context.Process(target=_load, args=(store.image_dir, archive, start))
        for archive in (same, same, other, other)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    names = {name for record in store.list() for name in record.repo_tags}
    assert names == {f"docker.io/library/{name}" for name in ("same:1", "same:2", "other:latest")}
    assert len(list(store.layout.images.iterdir())) == 2
    assert not any((store.image_dir / "tmp").iterdir())


# Loads an archive, and says so when the unpacking has begun.
_LOADER = """
import sys
from podling.runtime.images.store import ImageStore
ImageStore(sys.argv[1]).import_archive(sys.argv[2])
"""


def test_a_load_killed_in_the_middle_leaves_nothing_half_installed(store: ImageStore, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    many = layer(*(entry(f"d{n}/f", b"x" * 500) for n in range(5000)))
    image_id = docker_archive(archive, [many], tags=["app"])
    process = subprocess.Popen([sys.executable, "-c", _LOADER, store.image_dir, archive])
    deadline = time.monotonic() + 30
    while not any(store.image_dir.glob("tmp/*/image-*/rootfs/d10*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert store.resolve("app") is None
    assert not any(store.layout.images.iterdir())
    # The next load cleans up and does it all again.
    (record,) = store.import_archive(archive)
    assert record.id == image_id
    assert len(os.listdir(store.rootfs_path(record))) == 5000
    assert not any((store.image_dir / "tmp").iterdir())


def test_a_killed_process_does_not_hold_its_images(store: ImageStore, tmp_path: Path) -> None:
    docker_archive(tmp_path / "a.tar", [layer(entry("f", b"x"))], tags=["app"])
    (record,) = store.import_archive(tmp_path / "a.tar")
    program = (
        "import sys\nfrom podling.runtime.images.store import ImageStore\n"
        "store = ImageStore(sys.argv[1])\nhold = store.hold(store.get('app'))\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, store.image_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Exception, match="being used"):
            store.remove("app")
        holder.kill()
    assert store.remove("app")[-1] == f"Deleted: {record.id}"


def test_a_root_file_system_is_a_good_lower_directory(store: ImageStore, tmp_path: Path) -> None:
    lower = layer(directory("etc"), entry("etc/hidden", b"1"), entry("etc/kept", b"1", uid=33, gid=44))
    docker_archive(tmp_path / "a.tar", [lower, layer(entry("etc/.wh.hidden", b""))], tags=["app"])
    (record,) = store.import_archive(tmp_path / "a.tar")
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    merged = tmp_path / "merged"
    options = f"lowerdir={store.rootfs_path(record)},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    syscalls.mount("overlay", merged, "overlay", 0, options)
    try:
        assert os.listdir(merged / "etc") == ["kept"]
        found = os.stat(merged / "etc/kept")
        assert (found.st_uid, found.st_gid) == (33, 44)
        (merged / "etc/kept").write_text("changed")
        assert (store.rootfs_path(record) / "etc/kept").read_text() == "1"
    finally:
        syscalls.umount(merged)


def test_file_capabilities_survive_build_and_unpack(store: ImageStore, tmp_path: Path) -> None:
    # cap_net_raw+ep, version 2 (include/uapi/linux/capability.h, struct vfs_cap_data)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    program = tmp_path / "tree/bin/ping"
    program.parent.mkdir(parents=True)
    program.write_text("x")
    os.chown(program, 5, 6)
    os.setxattr(program, "security.capability", capability)
    record = build(store, BuildSpec(names=("app",), from_dir=tmp_path / "tree"))
    unpacked = store.rootfs_path(record) / "bin/ping"
    assert os.getxattr(unpacked, "security.capability") == capability
    assert (os.stat(unpacked).st_uid, os.stat(unpacked).st_gid) == (5, 6)


@pytest.mark.parametrize("ref", ["nosuch", "127.0.0.1:1/team/app:v1"])
async def test_a_pull_without_a_network_fails_fast_in_the_words_kubelet_users_know(
    store: ImageStore, ref: str
) -> None:
    start = time.monotonic()
    with pytest.raises(PullError) as caught:
        await store.pull(ref)
    assert time.monotonic() - start < 10
    full = "docker.io/library/nosuch:latest" if ref == "nosuch" else ref
    expected = f'failed to pull and unpack image "{full}": failed to resolve reference "{full}": '
    assert str(caught.value).startswith(expected)
    assert not any((store.image_dir / "tmp").iterdir())


async def test_a_registry_that_never_answers_is_given_up(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images", pull_settings=PullSettings(answer_s=0.2, attempts=2))
    release = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(PullError, match=r"no answer within|i/o timeout"):
            await store.pull(f"127.0.0.1:{port}/app")
    finally:
        release.set()
        server.close()
        await server.wait_closed()
