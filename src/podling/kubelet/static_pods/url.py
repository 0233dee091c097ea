"""Manifests at a URL: a pod or a list of pods, asked for now and then.

Upstream: `pkg/kubelet/config/http.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import aiohttp

from podling.api import core_v1
from podling.kubelet.static_pods.manifest import HTTP, ManifestError, read_manifest

TIMEOUT_S = 10.0
MAX_BYTES = 10 * 1024 * 1024


class StaticPodURL:
    """`run()` is a task of the kubelet's group. What cannot be had or read changes nothing."""

    def __init__(
        self,
        url: str,
        node: str,
        *,
        headers: Mapping[str, str],
        check_every_s: float,
        publish: Callable[[Sequence[core_v1.Pod]], None],
        complain: Callable[[str], None],
    ) -> None:
        self._url = url
        self._node = node
        self._headers = dict(headers)
        self._check_every_s = check_every_s
        self._publish = publish
        self._complain = complain
        self._last: bytes | None = None
        self._told = ""

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers, trust_env=False) as session:
            while True:
                try:
                    await self._look(session)
                    self._told = ""
                except (aiohttp.ClientError, TimeoutError, OSError, ManifestError) as err:
                    why = f"Failed to read pods from URL {self._url}: {str(err) or type(err).__name__}"
                    if why != self._told:
                        self._complain(why)
                    self._told = why
                await asyncio.sleep(self._check_every_s)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self._url) as response:
            if response.status != 200:
                raise ManifestError(f"{self._url}: {response.status} {response.reason}")
            data = await response.content.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ManifestError(f"more than {MAX_BYTES} bytes")
        if not data:
            raise ManifestError("zero-length data received")
        if data == self._last:
            return
        pods = read_manifest(
            data, source=HTTP, place=self._url, node=self._node, now=datetime.now(UTC), many=True
        )
        self._last = data
        self._publish(pods)
