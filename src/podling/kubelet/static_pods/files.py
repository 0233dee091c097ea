"""Manifests in a directory (or one file): read at start, at every change, and now and then.

A file whose manifest is broken keeps the pod it had: an edit that goes wrong must not take an API server
down. Differs from upstream, which forgets the pod at its next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from podling.api import core_v1
from podling.kubelet.static_pods.manifest import FILE, ManifestError, read_manifest
from podling.linux.inotify import IN_CLOSE_WRITE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO, Inotify

MASK = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE
MAX_BYTES = 10 * 1024 * 1024

log = logging.getLogger(__name__)


class StaticPodFiles:
    """`run()` is a task of the kubelet's group."""

    def __init__(
        self,
        path: Path,
        node: str,
        *,
        check_every_s: float,
        publish: Callable[[Sequence[core_v1.Pod]], None],
        complain: Callable[[str], None],
    ) -> None:
        """`publish` gets all pods whenever a file has changed (and at first); `complain` is told of a broken
        file once for each of its contents."""
        self._path = path
        self._node = node
        self._check_every_s = check_every_s
        self._publish = publish
        self._complain = complain
        self._read: dict[Path, tuple[bytes, core_v1.Pod | None]] = {}
        """What each file said last, and the newest pod that came of it."""
        self._missing = False

    async def run(self) -> None:
        first = True
        while True:
            # Watched before it is read: what happens in between is seen twice rather than never. Anew each
            # time, as the directory may be another one by now.
            watch = self._watch()
            try:
                self._look(first=first)
                first = False
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._check_every_s):
                        await (watch.changed() if watch is not None else asyncio.Event().wait())
            finally:
                if watch is not None:
                    watch.close()

    def _watch(self) -> Inotify | None:
        """None while the directory is not there, or no more can be watched: then only time tells."""
        try:
            return Inotify(self._folder, MASK)
        except OSError as err:
            log.debug("static pods: %s is not watched: %s", self._folder, err)
            return None

    @property
    def _folder(self) -> Path:
        return self._path.parent if self._path.is_file() else self._path

    def _look(self, *, first: bool) -> None:
        found = self._contents()
        changed = first or found.keys() != self._read.keys()
        for path, data in found.items():
            before, pod = self._read.get(path, (None, None))
            if data != before:
                changed = True
                self._read[path] = data, self._parse(path, data) or pod
        self._read = {path: self._read[path] for path in found}
        if changed:
            self._publish(self._pods())

    def _contents(self) -> dict[Path, bytes]:
        """What is in each manifest file; unreadable ones are told of and say what they said before."""
        contents: dict[Path, bytes] = {}
        for path in self._listed():
            try:
                data = path.read_bytes()
                if len(data) > MAX_BYTES:
                    raise OSError(f"{len(data)} bytes are more than {MAX_BYTES}")
            except FileNotFoundError:
                continue
            except OSError as err:
                self._tell(path, str(err))
                data = self._read.get(path, (b"", None))[0]
            # A file that is being made is empty at first: its writer's close is another event.
            if data.strip():
                contents[path] = data
        return contents

    def _listed(self) -> list[Path]:
        try:
            listed = [self._path] if self._path.is_file() else sorted(self._path.iterdir())
        except OSError as err:
            if not self._missing:
                log.warning("static pods: %s: %s", self._path, err.strerror)
            self._missing = True
            return []
        self._missing = False
        return [path for path in listed if not path.name.startswith(".") and not path.is_dir()]

    def _parse(self, path: Path, data: bytes) -> core_v1.Pod | None:
        try:
            (pod,) = read_manifest(data, source=FILE, place=str(path), node=self._node, now=datetime.now(UTC))
        except ManifestError as err:
            self._tell(path, str(err))
            return None
        return pod

    def _tell(self, path: Path, why: str) -> None:
        self._complain(f"Can't process manifest file {path}: {why}")

    def _pods(self) -> list[core_v1.Pod]:
        """Of two files with a pod of one name the first counts."""
        pods: dict[tuple[str, str], core_v1.Pod] = {}
        for path, (_, pod) in self._read.items():
            if pod is None:
                continue
            key = (pod.metadata.namespace or "", pod.metadata.name or "")
            if key in pods:
                self._tell(path, f'there is another static pod "{key[1]}_{key[0]}"')
            else:
                pods[key] = pod
        return list(pods.values())
