"""Where this node's static pods come from, as the settings say: a directory, a URL, both or neither."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from podling.api import core_v1
from podling.kubelet.config import KubeletConfig
from podling.kubelet.static_pods.files import StaticPodFiles
from podling.kubelet.static_pods.manifest import FILE, HTTP
from podling.kubelet.static_pods.url import StaticPodURL

log = logging.getLogger(__name__)


class StaticPodSources:
    """`start` them as tasks of the kubelet's group."""

    def __init__(
        self,
        config: KubeletConfig,
        publish: Callable[[str, Sequence[core_v1.Pod]], None],
        complain: Callable[[str], None],
    ) -> None:
        """`publish` gets all pods of a source, named FILE or HTTP, whenever they change."""
        self._publish = publish
        self._complain = complain
        self._waiting: set[str] = set()
        self._ready = asyncio.Event()
        self._sources: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        if config.static_pod_path is not None:
            self._sources[FILE] = StaticPodFiles(
                config.static_pod_path,
                config.node_name,
                check_every_s=config.file_check_frequency_s,
                publish=lambda pods: self._heard(FILE, pods),
                complain=self._tell,
            ).run
        if config.static_pod_url:
            self._sources[HTTP] = StaticPodURL(
                config.static_pod_url,
                config.node_name,
                headers=_headers(config.static_pod_url_header),
                check_every_s=config.http_check_frequency_s,
                publish=lambda pods: self._heard(HTTP, pods),
                complain=self._tell,
            ).run

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._waiting = set(self._sources)
        if not self._waiting:
            self._ready.set()
        for name, run in self._sources.items():
            tasks.create_task(run(), name=f"static pods: {name}")

    async def wait_ready(self) -> None:
        """Until every source has been heard once: only then is a pod that none names no one's."""
        await self._ready.wait()

    def _heard(self, source: str, pods: Sequence[core_v1.Pod]) -> None:
        self._publish(source, pods)
        self._waiting.discard(source)
        if not self._waiting:
            self._ready.set()

    def _tell(self, message: str) -> None:
        log.error("%s", message)
        self._complain(message)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
