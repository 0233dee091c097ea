"""Give back what nobody needs: `podling image prune`.

Images are removed as `ImageStore.remove` does it: what a container uses, on whatever node or by hand, stays.
Half-done unpackings and downloads, and blobs that no image names, go as well, unless somebody is at work on
them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from podling.runtime.images import partial
from podling.runtime.images.errors import ImageInUseError, ImageNotFoundError
from podling.runtime.images.store import ImageStore


@dataclass(slots=True)
class Pruned:
    lines: list[str] = field(default_factory=list)
    """As `docker image prune` prints them: `untagged: ...`, `deleted: ...`."""
    freed_bytes: int = 0


def prune(store: ImageStore, *, every: bool = False) -> Pruned:
    """Remove images without a name; with `every` all that no container uses. Blocks."""
    result = Pruned()
    before = store.usage().disk_bytes
    for record in store.list():
        if record.repo_tags and not every:
            continue
        try:
            lines = store.remove(record.id, force=True)
        except (ImageInUseError, ImageNotFoundError):
            continue
        result.lines += [f"{line[:1].lower()}{line[1:]}" for line in lines]
    store.layout.ensure()
    with suppress(BlockingIOError), store.layout.lock("collect", wait=False):
        partial.sweep(store.layout.downloads, older_than_s=0)
    store.layout.sweep()
    store.collect()
    result.freed_bytes = max(before - store.usage().disk_bytes, 0)
    return result
