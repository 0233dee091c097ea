"""The container runtime of a node: ours in this process, serving its CRI socket, or another's behind one."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from podling.runtime.config import RuntimeConfig
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.grpc_client import CRIClient
from podling.runtime.cri.grpc_server import CRIServer
from podling.runtime.server import Runtime

RETRY_S = 1.0

log = logging.getLogger(__name__)


@asynccontextmanager
async def node_runtime(
    config: RuntimeConfig, endpoint: str | None, stop: asyncio.Event
) -> AsyncIterator[Runtime | CRIClient]:
    """Ours, recovered and listening, for no `endpoint`; else a client of the one there, once it answers (or
    `stop` is set).

    `ValueError` for what is no endpoint; `OSError` when the socket cannot be made.
    """
    if endpoint is not None:
        client = CRIClient(endpoint)
        try:
            await _wait_answering(client, endpoint, stop)
            yield client
        finally:
            client.close()
        return
    runtime = Runtime(config)
    await runtime.start()
    server = CRIServer(runtime, runtime, config.cri_socket)
    try:
        await server.start()
        yield runtime
    finally:
        await server.stop()
        await runtime.stop()


async def serve_runtime(config: RuntimeConfig) -> None:
    """Our runtime alone behind its CRI socket, until SIGTERM or SIGINT. Containers live on."""
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    async with node_runtime(config, None, stop):
        await stop.wait()


async def _wait_answering(client: CRIClient, endpoint: str, stop: asyncio.Event) -> None:
    """At boot nobody promises that the runtime comes up first."""
    waiting = False
    while not stop.is_set():
        try:
            found = await client.version(cri.VersionRequest())
        except CRIError as err:
            if err.code is not Code.UNAVAILABLE:
                raise
            if not waiting:
                log.warning("%s; waiting for it", err)
            waiting = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
        else:
            log.info("container runtime %s %s at %s", found.runtime_name, found.runtime_version, endpoint)
            return
