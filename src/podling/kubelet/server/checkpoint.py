"""POST /checkpoint/NAMESPACE/POD/CONTAINER: the runtime writes the container's state into an archive.

Kubernetes documentation, "Kubelet Checkpoint API".
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from podling.kubelet.config import KubeletConfig
from podling.kubelet.server.lookup import Lookup
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.cri.service import RuntimeService

DIRECTORY = "checkpoints"


class CheckpointHandler:
    def __init__(self, config: KubeletConfig, lookup: Lookup, runtime: RuntimeService) -> None:
        self._config = config
        self._lookup = lookup
        self._runtime = runtime

    async def handle(self, request: web.Request) -> web.Response:
        container_id = await self._lookup.running_container(request)
        namespace, pod = request.match_info["namespace"], request.match_info["pod"]
        container = request.match_info["container"]
        try:
            timeout = int(request.query.get("timeout", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text="cannot parse value of timeout parameter") from None
        directory = self._config.root_dir / DIRECTORY
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place = directory / f"checkpoint-{pod}_{namespace}-{container}-{stamp}.tar"
        wanted = cri.CheckpointContainerRequest(
            container_id=container_id, location=str(place), timeout=timeout
        )
        try:
            await self._runtime.checkpoint_container(wanted)
        except CRIError as err:
            why = f"checkpointing of {namespace}/{pod}/{container} failed ({err.message})"
            raise web.HTTPInternalServerError(text=why) from err
        return web.Response(
            body=msgspec.json.encode({"items": [str(place)]}), content_type="application/json"
        )
