"""Layers and archives made by hand, so that tests can hold what no honest tool writes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def entry(name: str, data: bytes | None = None, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A tar entry: a file when `data` is given; else `type` says what."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644 if data is not None else 0o755
    info.size = len(data or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data or b""


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def docker_archive(path: Path, layers: list[bytes], *, tags: list[str] | None = None, **changes: Any) -> str:
    """Write what `docker save` writes; `changes` override fields of the config. Returns the image's id."""
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["A=1"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        },
    } | changes
    raw = json.dumps(config).encode()
    hex_id = hashlib.sha256(raw).hexdigest()
    names = [f"layer{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{hex_id}.json", "RepoTags": tags, "Layers": names}]
    files = {f"{hex_id}.json": raw, "manifest.json": json.dumps(manifest).encode()}
    files |= dict(zip(names, layers, strict=True))
    path.write_bytes(layer(*(entry(name, data) for name, data in files.items())))
    return f"sha256:{hex_id}"
