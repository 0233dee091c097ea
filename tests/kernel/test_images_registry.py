"""Pulls from a real registry on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.runtime.cri import messages as cri
from podling.runtime.images.build import BuildSpec, File, build
from podling.runtime.images.errors import PullError, PullNotFoundError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore

pytestmark = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs docker-registry and skopeo",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    with open(tmp_path / "registry.log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", tmp_path / "registry.yml"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        host, _, port = address.partition(":")
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                assert time.monotonic() < deadline
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def pushed(registry: str, tmp_path: Path) -> str:
    """The name of an image in the registry."""
    store = ImageStore(tmp_path / "source")
    spec = BuildSpec(
        names=("app",), files=(File(path="/hello", content="hi"),), config=RunConfig(cmd=["/hello"])
    )
    build(store, spec)
    name = f"{registry}/team/app:1"
    source = f"oci:{store.image_dir}:docker.io/library/app:latest"
    command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{name}"]
    subprocess.run(command, check=True, timeout=60)
    return name


async def test_a_pulled_image_is_found_by_name_and_by_the_registrys_digest(
    pushed: str, tmp_path: Path
) -> None:
    store = ImageStore(tmp_path / "images")
    record = await store.pull(pushed, insecure=True)
    repository = pushed.rpartition(":")[0]
    (digest,) = record.repo_digests
    assert digest.startswith(f"{repository}@sha256:")
    assert store.resolve(pushed) == store.resolve(digest) == record
    assert (store.rootfs_path(record) / "hello").read_text() == "hi"
    assert await store.pull(digest, insecure=True) == record


async def test_an_unknown_tag_is_not_found(pushed: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    with pytest.raises(PullNotFoundError, match=r"failed to resolve reference .*: not found"):
        await store.pull(pushed + "2", insecure=True)


async def test_a_registry_without_tls_is_refused_unless_asked_for(pushed: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    with pytest.raises(PullError, match="server gave HTTP response to HTTPS client"):
        await store.pull(pushed)


async def test_the_image_service_lists_and_removes_what_was_pulled(pushed: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    record = await store.pull(pushed, insecure=True)
    service = StoreImageService(store)
    (image,) = (await service.list_images(cri.ListImagesRequest())).images
    assert (image.id, image.repo_tags, image.uid) == (record.id, [pushed], 0)
    spec = cri.ImageSpec(image=pushed)
    for _ in range(2):
        await service.remove_image(cri.RemoveImageRequest(image=spec))
    assert (await service.image_status(cri.ImageStatusRequest(image=spec))).image is None
