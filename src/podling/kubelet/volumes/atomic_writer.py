"""Write a set of files so that readers see all of the old or all of the new, never a mixture.

Layout and steps are upstream's (`pkg/volume/util/atomic_writer.go`), on which programs that watch their
configuration rely:

    volume/..2025_01_31_12_00_00.123456/app.conf    the files
    volume/..data -> ..2025_01_31_12_00_00.123456   replaced by rename(2)
    volume/app.conf -> ..data/app.conf              what the container names
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from podling.kubelet.volumes.payload import Payload

DATA_LINK = "..data"


def write_payload(volume: Path, payload: Payload, *, gid: int | None = None) -> bool:
    """Make the volume show exactly `payload`; False when it already did. `gid`: the pod's fsGroup.

    Safe to repeat after a crash at any point: leftovers are removed by the next change.
    """
    volume.mkdir(parents=True, exist_ok=True)
    current = _current_dir(volume)
    if current is not None and _same(current, payload):
        return False
    fresh = _write_files(volume, payload, gid)
    _replace_link(volume / DATA_LINK, fresh.name)
    _link_names(volume, payload)
    _remove_stale(volume, payload, fresh.name)
    return True


def _current_dir(volume: Path) -> Path | None:
    try:
        return volume / os.readlink(volume / DATA_LINK)
    except FileNotFoundError:
        return None


def _same(current: Path, payload: Payload) -> bool:
    existing = {str(p.relative_to(current)) for p in current.rglob("*") if p.is_file()}
    if existing != payload.keys():
        return False
    return all(
        (current / path).read_bytes() == entry.content
        and (current / path).stat().st_mode & 0o777 & ~0o060 == entry.mode & 0o777 & ~0o060
        for path, entry in payload.items()
    )


def _write_files(volume: Path, payload: Payload, gid: int | None) -> Path:
    stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    fresh = Path(tempfile.mkdtemp(prefix=stamp, dir=volume))
    fresh.chmod(0o755)
    for path, entry in payload.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(entry.content)
        # The group of fsGroup may read whatever the volume shows (upstream: SetVolumeOwnership).
        target.chmod(entry.mode | 0o440 if gid is not None else entry.mode)
        if gid is not None or entry.uid is not None:
            os.chown(target, -1 if entry.uid is None else entry.uid, -1 if gid is None else gid)
    return fresh


def _replace_link(link: Path, target: str) -> None:
    temporary = link.with_name(f"{link.name}_tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)


def _top_names(payload: Payload) -> set[str]:
    return {PurePosixPath(path).parts[0] for path in payload}


def _link_names(volume: Path, payload: Payload) -> None:
    for name in _top_names(payload):
        link = volume / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA_LINK}/{name}")


def _remove_stale(volume: Path, payload: Payload, fresh: str) -> None:
    keep = _top_names(payload) | {DATA_LINK, fresh}
    for entry in list(volume.iterdir()):
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
