"""The results cache: what was attached how, so that DEL and CHECK work after a restart or a change of mind.

Files and their format are those of the reference library ("cniCacheV1"), one for each attachment:
`DIR/NETWORK-CONTAINERID-IFNAME`. Each holds the configuration used for ADD, so that DEL undoes what was done
and not what a newer configuration says. Written whole by renaming; not fsynced, since a power cut ends the
containers as well, and a sync costs as much as all the rest of an ADD.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podling.cni import jsontext

KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One interface of one container on one network."""

    network: str
    container_id: str
    ifname: str
    netns: str
    config: bytes  # the configuration list as JSON
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None


class ResultCache:
    """Blocking; small files. Entries that cannot be read are treated as absent: DEL must go on without."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, network: str, container_id: str, ifname: str) -> Path:
        return self._directory / f"{network}-{container_id}-{ifname}"

    def save(self, entry: Attachment) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(entry.network, entry.container_id, entry.ifname)
        draft = path.with_name(f".{path.name}.draft")
        with open(draft, "wb", opener=_private) as file:
            file.write(json.dumps(_to_json(entry)).encode())
        draft.rename(path)

    def load(self, network: str, container_id: str, ifname: str) -> Attachment | None:
        return self._read(self._path(network, container_id, ifname))

    def find(self, container_id: str, ifname: str) -> list[Attachment]:
        """The container's attachments by that interface on whatever networks."""
        # Names hold dashes too: the file's contents decide, its name only narrows the search.
        with contextlib.suppress(FileNotFoundError):
            entries = map(self._read, self._directory.glob(f"*-{container_id}-{ifname}"))
            return [e for e in entries if e and (e.container_id, e.ifname) == (container_id, ifname)]
        return []

    def all(self) -> list[Attachment]:
        with contextlib.suppress(FileNotFoundError):
            return [e for e in map(self._read, sorted(self._directory.iterdir())) if e]
        return []

    def remove(self, network: str, container_id: str, ifname: str) -> None:
        self._path(network, container_id, ifname).unlink(missing_ok=True)

    def remove_drafts(self, container_id: str, ifname: str) -> None:
        """What a `save` left that was killed between writing and renaming."""
        for draft in self._directory.glob(f".*-{container_id}-{ifname}.draft"):
            draft.unlink(missing_ok=True)

    def remove_all_drafts(self) -> None:
        """For when nothing can be saving."""
        for draft in self._directory.glob(".*.draft"):
            draft.unlink(missing_ok=True)

    def _read(self, path: Path) -> Attachment | None:
        try:
            return _from_json(jsontext.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _to_json(entry: Attachment) -> dict[str, Any]:
    text: dict[str, Any] = {
        "kind": KIND,
        "containerId": entry.container_id,
        "config": base64.b64encode(entry.config).decode(),
        "ifName": entry.ifname,
        "networkName": entry.network,
    }
    if entry.netns:
        text["netns"] = entry.netns
    if entry.cni_args:
        text["cniArgs"] = [list(pair) for pair in entry.cni_args]
    if entry.capability_args:
        text["capabilityArgs"] = entry.capability_args
    if entry.result is not None:
        text["result"] = entry.result
    return text


def _from_json(raw: dict[str, Any]) -> Attachment:
    if raw["kind"] != KIND:
        raise ValueError(f"unknown kind of cache entry: {raw['kind']}")
    return Attachment(
        network=raw["networkName"],
        container_id=raw["containerId"],
        ifname=raw["ifName"],
        netns=raw.get("netns", ""),
        config=base64.b64decode(raw["config"]),
        cni_args=tuple((str(key), str(value)) for key, value in raw.get("cniArgs") or ()),
        capability_args=raw.get("capabilityArgs") or {},
        result=raw.get("result"),
    )
