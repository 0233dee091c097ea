"""Pulls over a bad network: registries that stall, break off, lie, or ask to be left alone."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.registry_local import (
    Fault,
    FaultyProxy,
    Image,
    Pusher,
    faulty_proxy,
    is_blob,
    needs_registry,
    run_registry,
)
from podling.runtime.images.download import Phase, PullProgress
from podling.runtime.images.errors import ImageError, PullError
from podling.runtime.images.limits import Limits
from podling.runtime.images.registry.client import PullSettings
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import entry, layer

pytestmark = needs_registry

BIG = layer(entry("big", os.urandom(3 << 20)))
MIB = 1 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def pushed(registry: str) -> Image:
    return Pusher(registry).image("app", "1", [BIG])


def make_store(tmp_path: Path, *, limits: Limits | None = None, **changes: object) -> ImageStore:
    defaults = {"certs_dirs": (), "registries_conf": Path("/nonexistent"), "backoff_s": 0.01}
    settings = PullSettings(**(defaults | changes))  # type: ignore[arg-type]  # a test's shorthand
    return ImageStore(tmp_path / "images", pull_settings=settings, limits=limits)


def assert_nothing_installed(store: ImageStore) -> None:
    assert store.list() == []
    assert not any(store.layout.images.iterdir())
    assert not any((store.image_dir / "tmp").iterdir())


def on_blob(proxy: FaultyProxy, digest: str, faults: list[Fault]) -> None:
    """The faults of the first requests for a blob, one each."""
    proxy.choose = lambda request: faults.pop(0) if is_blob(request, digest) and faults else None


async def test_a_download_that_breaks_off_goes_on_where_it_was(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with faulty_proxy(registry) as proxy:
        on_blob(proxy, pushed.layers[0], [Fault(cut_after=MIB), Fault(status=503), Fault(cut_after=MIB)])
        record = await store.pull(f"{proxy.address}/app:1")
        asked = proxy.blobs_asked(pushed.layers[0])
    assert asked == ["", f"bytes={MIB}-", f"bytes={MIB}-", f"bytes={2 * MIB}-"]
    assert (store.rootfs_path(record) / "big").stat().st_size == 3 << 20
    assert os.listdir(store.layout.downloads) == []


async def test_a_registry_that_always_breaks_off_is_given_up(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path, attempts=3)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: Fault(cut_after=0) if is_blob(request, pushed.layers[0]) else None
        with pytest.raises(PullError, match=r"failed to copy: .*(unexpected EOF|EOF)"):
            await store.pull(f"{proxy.address}/app:1")
        assert len(proxy.blobs_asked(pushed.layers[0])) == 3
    assert_nothing_installed(store)


async def test_the_next_pull_takes_what_an_interrupted_one_left(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with faulty_proxy(registry) as proxy:
        on_blob(proxy, pushed.layers[0], [Fault(stall_after=2 * MIB)])
        name = f"{proxy.address}/app:1"
        first = asyncio.create_task(store.pull(name))
        while not any((store.layout.downloads).glob("*")) or not _left(store):
            assert not first.done()
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        left = _left(store)
        assert_nothing_installed(store)
        assert await make_store(tmp_path).pull(name)
        assert proxy.blobs_asked(pushed.layers[0]) == ["", f"bytes={left}-"]


async def test_whole_layers_of_a_pull_that_was_killed_are_not_fetched_again(
    registry: str, tmp_path: Path
) -> None:
    first, second = layer(entry("first", b"1")), layer(entry("second", b"2"))
    pushed = Pusher(registry).image("two", "1", [first, second])
    store = make_store(tmp_path)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: Fault(stall_after=0) if is_blob(request, pushed.layers[1]) else None
        program = (
            "import asyncio, sys\nfrom podling.runtime.images.store import ImageStore\n"
            "asyncio.run(ImageStore(sys.argv[1]).pull(sys.argv[2]))"
        )
        name = f"{proxy.address}/two:1"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(store.image_dir), name
        )
        blob = store.layout.blob_path(pushed.layers[0])
        while not (blob.exists() and proxy.blobs_asked(pushed.layers[1])):
            assert process.returncode is None
            await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        proxy.choose = lambda _: None
        record = await store.pull(name)
        assert proxy.blobs_asked(pushed.layers[0]) == [""]
    assert os.listdir(store.layout.downloads) == []
    await asyncio.to_thread(store.remove, record.id)
    assert not any(store.layout.blobs.iterdir())


def _left(store: ImageStore) -> int:
    return sum(path.stat().st_size for path in store.layout.downloads.iterdir() if path.stat().st_size > MIB)


async def test_a_wrong_beginning_is_found_by_its_digest_and_fetched_anew(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    store.layout.ensure()
    (store.layout.downloads / pushed.layers[0].removeprefix("sha256:")).write_bytes(b"x" * MIB)
    async with faulty_proxy(registry) as proxy:
        assert await store.pull(f"{proxy.address}/app:1")
        assert proxy.blobs_asked(pushed.layers[0]) == [f"bytes={MIB}-", ""]


async def test_a_registry_that_stalls_is_given_up_with_the_time_it_had(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path, stall_s=0.3, attempts=2)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: Fault(stall_after=1000) if is_blob(request, pushed.layers[0]) else None
        async with asyncio.timeout(60):
            with pytest.raises(PullError, match=r"failed to copy: .*no answer within 0\.3 s"):
                await store.pull(f"{proxy.address}/app:1")
    assert_nothing_installed(store)


async def test_an_answer_that_stalls_in_the_manifest_is_given_up(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path, answer_s=0.3, attempts=2)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda _: Fault(stall_after=10)
        async with asyncio.timeout(60):
            with pytest.raises(PullError, match=r"failed to resolve reference .*no answer within 0\.3 s"):
                await store.pull(f"{proxy.address}/app:1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "unexpected commit digest"),
        (lambda data: data + b"more", "unexpected commit size"),
        (lambda data: data[:1000], "unexpected commit size"),
        (lambda data: b"", "unexpected commit size"),
    ],
    ids=["changed", "longer", "shorter", "empty"],
)
async def test_a_blob_that_is_not_what_the_manifest_says_is_refused(
    registry: str, pushed: Image, tmp_path: Path, change: type[bytes], says: str
) -> None:
    store = make_store(tmp_path, attempts=2)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: Fault(change=change) if is_blob(request, pushed.layers[0]) else None
        with pytest.raises(PullError, match=says):
            await store.pull(f"{proxy.address}/app:1")
        assert_nothing_installed(store)
        # Nothing wrong is kept, either: the registry has come to its senses.
        proxy.choose = lambda _: None
        assert await store.pull(f"{proxy.address}/app:1")


async def test_a_manifest_that_is_not_its_digest_is_refused(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: (
            Fault(change=lambda data: data + b" ") if "/manifests/" in request.path else None
        )
        with pytest.raises(PullError, match=f"expected {pushed.digest}"):
            await store.pull(f"{proxy.address}/app@{pushed.digest}")
    assert_nothing_installed(store)


async def test_a_registry_that_is_overloaded_is_asked_again_when_it_says(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    faults = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=502)]
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda request: faults.pop(0) if "/manifests/" in request.path and faults else None
        assert await store.pull(f"{proxy.address}/app:1")
        assert faults == []


async def test_a_refusal_is_not_asked_again(registry: str, pushed: Image, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    async with faulty_proxy(registry) as proxy:
        proxy.choose = lambda _: Fault(status=403)
        with pytest.raises(PullError, match="pull access denied, repository does not exist or may require"):
            await store.pull(f"{proxy.address}/app:1")
        assert len(proxy.asked) == 1


async def test_a_disk_without_room_is_told_before_the_download(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path, limits=Limits(min_free_bytes=1 << 60))
    async with faulty_proxy(registry) as proxy:
        with pytest.raises(ImageError, match="no space left on device"):
            await store.pull(f"{proxy.address}/app:1")
        assert proxy.blobs_asked(pushed.layers[0]) == []
    assert_nothing_installed(store)


async def test_an_image_of_more_than_the_limit_is_not_downloaded(
    registry: str, pushed: Image, tmp_path: Path
) -> None:
    store = make_store(tmp_path, limits=Limits(max_bytes=MIB))
    async with faulty_proxy(registry) as proxy:
        with pytest.raises(ImageError, match=f"more than {MIB} bytes"):
            await store.pull(f"{proxy.address}/app:1")
        assert proxy.blobs_asked(pushed.layers[0]) == []


async def test_progress_is_told_by_blob(registry: str, pushed: Image, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    told: list[PullProgress] = []
    await store.pull(f"{registry}/app:1", report=told.append)
    mine = [one for one in told if one.digest == pushed.layers[0]]
    assert list(dict.fromkeys(one.phase for one in mine)) == [
        Phase.WAITING,
        Phase.DOWNLOADING,
        Phase.DOWNLOADED,
        Phase.EXTRACTING,
        Phase.DONE,
    ]
    assert [one.done_bytes for one in mine] == sorted(one.done_bytes for one in mine)
    assert {one.size_bytes for one in mine} == {len(BIG)}
