"""Pulls from a real registry on loopback: names, digests, platforms, media types, mirrors."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.registry_local import (
    Fault,
    Pusher,
    answering,
    faulty_proxy,
    is_blob,
    needs_registry,
    run_registry,
)
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images import oci
from podling.runtime.images.errors import InvalidImageError, PullError, PullNotFoundError
from podling.runtime.images.platforms import host_architecture
from podling.runtime.images.registry.client import PullSettings
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import entry, layer

pytestmark = needs_registry

HELLO = layer(entry("hello", b"hi"))
OTHER = "s390x" if host_architecture() != "s390x" else "amd64"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def push(registry: str) -> Pusher:
    return Pusher(registry)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", pull_settings=settings())


def settings(**changes: object) -> PullSettings:
    defaults = {"certs_dirs": (), "registries_conf": Path("/nonexistent"), "backoff_s": 0.01}
    return PullSettings(**(defaults | changes))  # type: ignore[arg-type]  # a test's shorthand


async def test_a_pulled_image_is_found_by_name_and_by_the_registrys_digest(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    pushed = push.image("team/app", "1", [HELLO])
    record = await store.pull(f"{registry}/team/app:1")
    assert record.repo_digests == (f"{registry}/team/app@{pushed.digest}",)
    assert record.repo_tags == (f"{registry}/team/app:1",)
    assert store.resolve(record.repo_tags[0]) == store.resolve(record.repo_digests[0]) == record
    assert (store.rootfs_path(record) / "hello").read_text() == "hi"
    assert await store.pull(record.repo_digests[0]) == record


async def test_a_name_without_a_tag_means_latest(registry: str, push: Pusher, store: ImageStore) -> None:
    push.image("latest-app", "latest", [HELLO])
    record = await store.pull(f"{registry}/latest-app")
    assert record.repo_tags == (f"{registry}/latest-app:latest",)


async def test_beside_a_digest_the_tag_means_nothing(registry: str, push: Pusher, store: ImageStore) -> None:
    old = push.image("moved", "1", [HELLO])
    push.image("moved", "1", [layer(entry("hello", b"new"))])
    record = await store.pull(f"{registry}/moved:1@{old.digest}")
    assert (record.repo_tags, record.repo_digests) == ((), (f"{registry}/moved@{old.digest}",))
    assert store.resolve(f"{registry}/moved:1@{old.digest}") == record
    assert store.resolve(f"{registry}/moved:1") is None


async def test_a_moved_tag_is_pulled_anew_and_an_unmoved_one_is_only_asked_for(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    push.image("moving", "1", [HELLO])
    async with faulty_proxy(registry) as proxy:
        name = f"{proxy.address}/moving:1"
        first = await store.pull(name)
        proxy.asked.clear()
        assert await store.pull(name) == first
        assert [method for method, _, _ in proxy.asked] == ["HEAD"]
        push.image("moving", "1", [HELLO, layer(entry("second", b"2"))])
        second = await store.pull(name)
    assert (second.repo_tags, store.get(first.id).repo_tags) == ((name,), ())
    assert (store.rootfs_path(second) / "second").exists()


async def test_layers_that_another_image_brought_are_not_fetched_again(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    one = push.image("shared", "one", [HELLO])
    push.image("shared", "two", [HELLO, layer(entry("second", b"2"))])
    async with faulty_proxy(registry) as proxy:
        await store.pull(f"{proxy.address}/shared:one")
        await store.pull(f"{proxy.address}/shared:two")
        assert proxy.blobs_asked(one.layers[0]) == [""]


async def test_an_unknown_tag_is_not_found(registry: str, push: Pusher, store: ImageStore) -> None:
    push.image("app", "1", [HELLO])
    name = f"{registry}/app:2"
    with pytest.raises(PullNotFoundError) as caught:
        await store.pull(name)
    assert str(caught.value) == (
        f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
    )


# platforms and media types


async def test_an_index_gives_the_image_for_this_machine(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    other = push.image("multi", "other", [layer(entry("other", b""))], architecture=OTHER)
    mine = push.image("multi", "mine", [HELLO])
    digest = push.index(
        "multi",
        "all",
        [
            other.descriptor(architecture=OTHER),
            mine.descriptor(architecture="unknown", os="unknown"),
            mine.descriptor(architecture=host_architecture()),
        ],
    )
    record = await store.pull(f"{registry}/multi:all")
    assert record.repo_digests == (f"{registry}/multi@{digest}",)
    assert record.manifest_digest == mine.digest
    assert record.config.architecture == host_architecture()


async def test_an_index_without_this_machine_says_what_it_has(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    other = push.image("foreign", "other", [HELLO], architecture=OTHER)
    digest = push.index("foreign", "all", [other.descriptor(architecture=OTHER, variant="v9")])
    with pytest.raises(PullNotFoundError) as caught:
        await store.pull(f"{registry}/foreign:all")
    assert f"no match for platform in manifest {digest}: not found" in str(caught.value)
    assert f"it has linux/{OTHER}/v9, this machine is linux/{host_architecture()}" in str(caught.value)


async def test_a_lone_image_for_another_machine_is_taken_as_containerd_does(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    """The kernel may run it through an interpreter (binfmt_misc)."""
    push.image("lone", "1", [HELLO], architecture=OTHER)
    assert (await store.pull(f"{registry}/lone:1")).config.architecture == OTHER


@pytest.mark.parametrize(
    ("media_type", "compress"),
    [
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress),
        (f"{oci.MEDIA_LAYER}+gzip", gzip.compress),
        (
            f"{oci.MEDIA_LAYER}+zstd",
            lambda data: subprocess.run(["zstd", "-cq"], input=data, check=True, capture_output=True).stdout,
        ),
    ],
)
async def test_compressed_layers(
    registry: str, push: Pusher, store: ImageStore, media_type: str, compress: type[bytes]
) -> None:
    tag = media_type.rpartition(".")[2].replace("+", "-")
    push.image("packed", tag, [compress(HELLO)], plain_layers=[HELLO], layer_type=media_type)
    record = await store.pull(f"{registry}/packed:{tag}")
    assert (store.rootfs_path(record) / "hello").read_text() == "hi"


@pytest.mark.parametrize(
    ("media_type", "says"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "is not distributable"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "is not distributable"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        ("application/x-whatever", "has the unknown media type"),
    ],
)
async def test_layers_that_are_none_are_refused_in_words(
    registry: str, push: Pusher, store: ImageStore, media_type: str, says: str
) -> None:
    pushed = push.image("plain", "1", [HELLO])
    changed = pushed.manifest.replace(oci.MEDIA_LAYER.encode(), media_type.encode())
    async with answering(registry, changed) as proxy:
        with pytest.raises(InvalidImageError, match=says):
            await store.pull(f"{proxy.address}/plain:1")
    assert store.list() == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema 1, which is no longer supported"),
        (b'{"schemaVersion": 2, "layers": [], "manifests": []}', "an index and a manifest at once"),
        (b'{"schemaVersion": 2, "layers": 5}', "not valid"),
        (b"not JSON", "not valid"),
        (b"[" * 100_000, "not valid"),
        (b'{"schemaVersion": 2, "manifests": []}', "no match for platform"),
        (
            b'{"schemaVersion": 2, "layers": [], "config": {"mediaType": "application/vnd.cncf.helm.config",'
            b'"digest": "sha256:' + b"0" * 64 + b'", "size": 2}}',
            "not a container image",
        ),
        (
            b'{"schemaVersion": 2, "layers": [], "config": {"mediaType": "application/vnd.oci.image.config.v1'
            b'+json", "digest": "sha512:00", "size": 2}}',
            "unsupported digest",
        ),
        (b" " * ((4 << 20) + 1), "larger than"),
    ],
)
async def test_manifests_that_are_none_are_refused_in_words(
    registry: str, push: Pusher, store: ImageStore, document: bytes, says: str
) -> None:
    push.image("plain", "1", [HELLO])
    async with answering(registry, document) as proxy:
        with pytest.raises((InvalidImageError, PullError), match=says):
            await store.pull(f"{proxy.address}/plain:1")
    assert store.list() == []


async def test_a_huge_config_is_refused_unfetched(registry: str, push: Pusher, store: ImageStore) -> None:
    pushed = push.image("plain", "1", [HELLO])
    document = oci.decode(pushed.manifest, oci.Manifest, "manifest")
    changed = pushed.manifest.replace(f'"size": {document.config.size}'.encode(), b'"size": 99999999', 1)
    async with answering(registry, changed) as proxy:
        with pytest.raises(InvalidImageError, match=r"config of .* is larger than"):
            await store.pull(f"{proxy.address}/plain:1")
        assert proxy.blobs_asked(document.config.digest) == []


# mirrors, configuration


def configured(tmp_path: Path, content: str) -> ImageStore:
    (tmp_path / "registries.conf").write_text(content)
    return ImageStore(
        tmp_path / "images", pull_settings=settings(registries_conf=tmp_path / "registries.conf")
    )


async def test_a_mirror_is_asked_first_and_the_image_keeps_its_name(
    registry: str, push: Pusher, tmp_path: Path
) -> None:
    pushed = push.image("mirror/team/app", "1", [HELLO])
    store = configured(
        tmp_path,
        f"""
        unqualified-search-registries = ["example.com"]
        [[registry]]
        prefix = "registry.invalid/team"
        [[registry.mirror]]
        location = "127.0.0.1:1/nothing"
        [[registry.mirror]]
        location = "{registry}/mirror/team"
        """,
    )
    record = await store.pull("registry.invalid/team/app:1")
    assert record.repo_tags == ("registry.invalid/team/app:1",)
    assert record.repo_digests == (f"registry.invalid/team/app@{pushed.digest}",)


async def test_when_every_mirror_fails_the_registrys_own_error_stands(
    registry: str, push: Pusher, tmp_path: Path
) -> None:
    push.image("own", "1", [HELLO])
    store = configured(
        tmp_path,
        f"""
        [[registry]]
        location = "{registry}"
        [[registry.mirror]]
        location = "127.0.0.1:1"
        """,
    )
    assert await store.pull(f"{registry}/own:1")
    with pytest.raises(PullNotFoundError) as caught:
        await store.pull(f"{registry}/own:2")
    assert "mirror 127.0.0.1:1/own: " in caught.value.remedy


async def test_a_mirror_that_breaks_off_is_replaced_by_the_next(
    registry: str, push: Pusher, tmp_path: Path
) -> None:
    pushed = push.image("broken", "1", [layer(entry("big", os.urandom(3 << 20)))])
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: Fault(status=500) if is_blob(request, pushed.layers[0]) else None
        store = configured(
            tmp_path,
            f"""
            [[registry]]
            location = "{registry}"
            [[registry.mirror]]
            location = "{proxy.address}"
            """,
        )
        assert await store.pull(f"{registry}/broken:1")
        assert len(proxy.blobs_asked(pushed.layers[0])) == settings().attempts


async def test_a_blocked_registry_is_not_asked(tmp_path: Path) -> None:
    store = configured(tmp_path, '[[registry]]\nprefix = "*.example.com"\nblocked = true\n')
    with pytest.raises(PullError, match=r"\*\.example\.com is blocked"):
        await store.pull("hub.example.com/app")


@pytest.mark.parametrize(
    "content", ["[[registry]", "[[registry]]\nblocked = 5", "[[registry]]\n", "[registries.search]\n"]
)
async def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    store = configured(tmp_path, content)
    with pytest.raises(PullError, match=r"registries\.conf"):
        await store.pull("hub.example.com/app")


# the CRI


async def test_the_image_service_pulls_lists_and_removes(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    push.image("cri", "1", [HELLO])
    name = f"{registry}/cri:1"
    service = StoreImageService(store)
    spec = cri.ImageSpec(image=name)
    pulled = await service.pull_image(cri.PullImageRequest(image=spec))
    (image,) = (await service.list_images(cri.ListImagesRequest())).images
    assert (image.id, image.repo_tags, image.uid) == (pulled.image_ref, [name], 0)
    for _ in range(2):
        await service.remove_image(cri.RemoveImageRequest(image=spec))
    assert (await service.image_status(cri.ImageStatusRequest(image=spec))).image is None


async def test_the_image_services_codes(registry: str, push: Pusher, store: ImageStore) -> None:
    push.image("cri", "1", [HELLO])
    service = StoreImageService(store)
    for name, code in (
        (f"{registry}/cri:nosuch", Code.NOT_FOUND),
        ("bad name", Code.UNKNOWN),
        ("127.0.0.1:1/app", Code.UNKNOWN),
    ):
        with pytest.raises(CRIError) as caught:
            await service.pull_image(cri.PullImageRequest(image=cri.ImageSpec(image=name)))
        assert caught.value.code == code
        assert name in caught.value.message
    with pytest.raises(CRIError, match="invalid auth config") as caught:
        await service.pull_image(
            cri.PullImageRequest(
                image=cri.ImageSpec(image=f"{registry}/cri:1"), auth=cri.AuthConfig(auth="%%%")
            )
        )
    assert caught.value.code == Code.UNKNOWN


async def test_ten_pulls_at_once_are_one(registry: str, push: Pusher, store: ImageStore) -> None:
    pushed = push.image("crowd", "1", [layer(entry("big", os.urandom(2 << 20)))])
    async with faulty_proxy(registry) as proxy:
        service = StoreImageService(store)
        request = cri.PullImageRequest(image=cri.ImageSpec(image=f"{proxy.address}/crowd:1"))
        answers = await asyncio.gather(*(service.pull_image(request) for _ in range(10)))
        assert len({answer.image_ref for answer in answers}) == 1
        assert len(proxy.asked) == 3  # manifest, config, layer
        assert proxy.blobs_asked(pushed.layers[0]) == [""]


async def test_pulls_of_several_processes_and_images_fetch_a_shared_layer_once(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    big = layer(entry("big", os.urandom(4 << 20)))
    for number in range(3):
        push.image("apart", str(number), [big, layer(entry(f"own{number}", b"x"))])
    async with faulty_proxy(registry) as proxy:
        program = (
            "import asyncio, sys\nfrom podling.runtime.images.store import ImageStore\n"
            "asyncio.run(ImageStore(sys.argv[1]).pull(sys.argv[2]))"
        )
        command = (sys.executable, "-c", program, str(store.image_dir))
        processes = [
            await asyncio.create_subprocess_exec(*command, f"{proxy.address}/apart:{number}")
            for number in range(3)
        ]
        assert await asyncio.gather(*(process.wait() for process in processes)) == [0, 0, 0]
        assert proxy.blobs_asked(oci.sha256_digest(big)) == [""]
    assert len(store.list()) == 3
    assert os.listdir(store.layout.downloads) == []


# the command line


async def podling(*arguments: str, image_dir: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "podling.cli", "image", "--image-dir", str(image_dir), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_podling_image_pull_prints_the_id_and_tells_its_progress(
    registry: str, push: Pusher, store: ImageStore
) -> None:
    pushed = push.image("told", "1", [HELLO])
    short = pushed.layers[0].removeprefix("sha256:")[:12]
    code, out, err = await podling("pull", f"{registry}/told:1", image_dir=store.image_dir)
    (record,) = store.list()
    assert (code, out) == (0, f"{record.id}\n")
    assert f"{short}: Download complete\n{short}: Extracting\n{short}: Pull complete\n" in err
    code, out, err = await podling("pull", f"{registry}/told:2", image_dir=store.image_dir)
    assert (code, out) == (1, "")
    assert err.count("not found") == 1
    assert "Traceback" not in err
