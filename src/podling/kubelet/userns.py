"""A range of the node's user IDs for each pod with `hostUsers: false`.

    ROOT/pods/UID/userns      which one, as upstream's kubelet writes it; it goes with the pod's directory

Nothing is remembered elsewhere: what is taken is read from these files, and a file is on the disk before the
pod's sandbox is asked for. Ranges are drawn at random: kubelets that share a machine, as the nodes of a
cluster on one do, then hardly ever give the same one. Kubernetes documentation, "User Namespaces".
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import msgspec

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

LENGTH = 65536
"""IDs of a pod: as many as 16 bits tell apart; upstream's."""
RANGES = (1 << 32) // LENGTH - 1
"""The last one is nobody's: it holds the ID -1, which no process can have."""
_FILE = "userns"


class _Mapping(msgspec.Struct, rename="camel"):
    host_id: int
    container_id: int
    length: int


class _Recorded(msgspec.Struct, rename="camel"):
    uid_mappings: list[_Mapping]
    gid_mappings: list[_Mapping]


class UserNamespaces:
    def __init__(self, config: KubeletConfig, runtime: RuntimeService) -> None:
        self._config = config
        self._runtime = runtime
        self._supported = False
        self._lock = asyncio.Lock()

    async def of(self, pod: core_v1.Pod) -> cri.UserNamespace | None:
        """The pod's, chosen when it is first asked for; None for a pod that has the node's users.

        Raises `CRIError` when the runtime cannot do it or no range is left.
        """
        if names.pod_spec(pod).host_users is not False:
            return None
        async with self._lock:
            if not self._supported:
                await self._check_runtime()
            return await asyncio.to_thread(self._ensure, names.pod_uid(pod))

    async def _check_runtime(self) -> None:
        handlers = (await self._runtime.status(cri.StatusRequest())).runtime_handlers
        self._supported = any(not h.name and h.features and h.features.user_namespaces for h in handlers)
        if not self._supported:
            raise CRIError(
                Code.FAILED_PRECONDITION, 'RuntimeClass handler "" does not support user namespaces'
            )

    def _ensure(self, uid: names.PodUID) -> cri.UserNamespace:
        file = names.pod_dir(self._config, uid) / _FILE
        found = _read(file)
        if found is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            found = _recorded(self._free())
            _write(file, msgspec.json.encode(found))
        return cri.UserNamespace(
            mode=cri.NamespaceMode.POD, uids=_to_cri(found.uid_mappings), gids=_to_cri(found.gid_mappings)
        )

    def _free(self) -> int:
        taken = {0}  # the node's own users
        for file in self._config.pods_dir.glob(f"*/{_FILE}"):
            for mapping in found.uid_mappings if (found := _read(file)) else ():
                taken.add(mapping.host_id // LENGTH)
        if len(taken) >= RANGES:
            raise CRIError(
                Code.RESOURCE_EXHAUSTED, "could not find an empty slot to allocate a user namespace"
            )
        start = secrets.randbelow(RANGES)
        return next(i for k in range(RANGES) if (i := (start + k) % RANGES) not in taken)


def _recorded(index: int) -> _Recorded:
    mapping = [_Mapping(host_id=index * LENGTH, container_id=0, length=LENGTH)]
    return _Recorded(uid_mappings=mapping, gid_mappings=mapping)


def _to_cri(mappings: list[_Mapping]) -> list[cri.IDMapping]:
    return [cri.IDMapping(host_id=m.host_id, container_id=m.container_id, length=m.length) for m in mappings]


def _read(file: Path) -> _Recorded | None:
    """None also for one that a power cut left unreadable: no sandbox was made with it."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Recorded)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk: files that a pod leaves on volumes have owners of this range."""
    beside = file.with_name(f".{file.name}.new")
    with beside.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    beside.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
