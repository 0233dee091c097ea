"""What is removed, in which order, and what is told, as time goes by."""

from __future__ import annotations

import pytest

from podling.kubelet.image_gc import Disk, ImageGarbageCollector, ImageGCError, ImageGCPolicy, format_size
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images.service import ANNOTATION_LAST_USED

from .memory_runtime import MemoryRuntime

HOUR = 3600.0


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def node(self, name: str, type_: str, reason: str, message: str) -> None:
        self.told.append((reason, message))


class Node:
    """A disk of 1000 bytes, 900 of them used when nothing is removed."""

    def __init__(self, **policy: float) -> None:
        self.runtime = MemoryRuntime()
        self.runtime.images = {}
        self.events = Events()
        self.now = 100 * HOUR
        self.available = 100
        self.collector = ImageGarbageCollector(
            self.runtime,  # type: ignore[arg-type]  # the part of a runtime that is asked here
            self.runtime,  # type: ignore[arg-type]
            self.events,  # type: ignore[arg-type]
            node_name="n",
            policy=ImageGCPolicy(**policy),  # type: ignore[arg-type]
            clock=lambda: self.now,
            disk=lambda _: Disk(1000, self.available),
        )

    def add(self, name: str, *, size: int = 60, used_at: float | None = None, pinned: bool = False) -> None:
        notes = {ANNOTATION_LAST_USED: str(used_at)} if used_at is not None else {}
        self.runtime.images[name] = cri.Image(
            id=f"id-{name}",
            repo_tags=[name],
            size=size,
            pinned=pinned,
            spec=cri.ImageSpec(image=f"id-{name}", annotations=notes),
        )

    @property
    def left(self) -> list[str]:
        return sorted(self.runtime.images)

    async def settle(self) -> None:
        """Let it see the images, and let them grow old enough."""
        self.available = 1000
        await self.collector.collect()
        self.now += HOUR
        self.available = 100


async def test_the_least_recently_used_go_until_the_low_threshold() -> None:
    node = Node()
    for name, hours in (("b", 3), ("a", 1), ("c", 2), ("d", 50)):
        node.add(name, used_at=hours * HOUR)
    await node.settle()
    # 900 of 1000 used: 100 bytes are to be freed to reach 80 %.
    await node.collector.collect()
    assert node.left == ["b", "d"]


async def test_below_the_high_threshold_nothing_goes() -> None:
    node = Node()
    node.add("a", used_at=0)
    await node.settle()
    node.available = 160
    await node.collector.collect()
    assert node.left == ["a"]


async def test_images_in_use_pinned_or_young_stay_and_the_shortage_is_told() -> None:
    node = Node()
    node.add("pinned", used_at=0, pinned=True)
    node.add("in-use", used_at=0)
    await node.settle()
    node.runtime.containers["c"] = (
        "s",
        cri.ContainerStatus(image=cri.ImageSpec(image="in-use"), image_ref="id-in-use"),
    )
    node.add("young", used_at=0)
    text = (
        "Insufficient free disk space on the node's image filesystem (90% of 1000 B used). Failed to free "
        "sufficient space by deleting unused images (freed 0 bytes). Investigate disk usage, as it could be "
        "used by active images, logs, volumes, or other data."
    )
    for _ in range(2):
        await node.collector.collect_and_tell()
    assert node.left == ["in-use", "pinned", "young"]
    # ImageGCFailed only for what fails twice in a row.
    assert node.events.told == [
        ("FreeDiskSpaceFailed", text),
        ("FreeDiskSpaceFailed", text),
        ("ImageGCFailed", text),
    ]


async def test_what_another_node_uses_counts_as_used_now() -> None:
    node = Node()
    node.add("theirs", used_at=0)
    node.add("idle", used_at=HOUR, size=200)
    await node.settle()
    node.runtime.fail("remove_image", CRIError(Code.FAILED_PRECONDITION, "in use"))
    await node.collector.collect()
    assert node.left == ["theirs"]


async def test_other_failures_are_told_when_the_rest_is_done() -> None:
    node = Node()
    node.add("a", used_at=0)
    node.add("b", used_at=HOUR)
    node.add("c", used_at=2 * HOUR)
    await node.settle()
    node.runtime.fail("remove_image", CRIError(Code.UNKNOWN, "read-only file system"))
    with pytest.raises(
        ImageGCError,
        match="wanted to free 100 bytes, but freed 120 bytes space with errors in image deletion: read-only",
    ):
        await node.collector.collect()
    assert node.left == ["a"]


async def test_old_images_go_however_empty_the_disk_is() -> None:
    node = Node(maximum_age_s=10 * HOUR)
    node.available = 1000
    node.add("dated", used_at=node.now - 11 * HOUR)
    node.add("fresh", used_at=node.now - 9 * HOUR)
    node.add("undated")  # of a runtime that does not say: it gets its whole age from now on
    await node.collector.collect()
    assert node.left == ["fresh", "undated"]
    node.now += 10.5 * HOUR
    await node.collector.collect()
    assert node.left == []


async def test_an_eviction_may_take_all_that_is_unused() -> None:
    node = Node()
    node.add("a", used_at=0)
    node.add("b", used_at=0, pinned=True)
    await node.settle()
    assert await node.collector.delete_unused() == 60
    assert node.left == ["b"]


@pytest.mark.parametrize(
    ("size", "text"), [(5, "5 B"), (2048, "2.0 KiB"), (28346784973, "26.4 GiB"), (1 << 45, "32.0 TiB")]
)
def test_sizes_as_upstream_prints_them(size: int, text: str) -> None:
    assert format_size(size) == text
