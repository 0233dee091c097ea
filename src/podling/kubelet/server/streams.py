"""exec, attach, portForward: ask the runtime for a URL and hand the connection over to it.

What kubectl streams passes through as raw bytes, whatever the protocol; the runtime's streaming server
speaks it. /run answers with a command's output, for scripts.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from podling.client.streamproxy import proxy_upgrade
from podling.kubelet.server.lookup import Lookup
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

T = TypeVar("T")


class StreamHandlers:
    def __init__(self, lookup: Lookup, runtime: RuntimeService) -> None:
        self._lookup = lookup
        self._runtime = runtime

    async def exec(self, request: web.Request) -> web.StreamResponse:
        container_id = await self._lookup.running_container(request)
        response = await ask(
            self._runtime.exec(
                cri.ExecRequest(
                    container_id=container_id,
                    cmd=request.query.getall("command", []),
                    tty=_flag(request, "tty"),
                    stdin=_flag(request, "input", "stdin"),
                    stdout=_flag(request, "output", "stdout"),
                    # On a terminal there is one output; clients that ask for two are not refused.
                    stderr=_flag(request, "error", "stderr") and not _flag(request, "tty"),
                )
            )
        )
        return await proxy_upgrade(request, response.url)

    async def attach(self, request: web.Request) -> web.StreamResponse:
        container_id = await self._lookup.running_container(request)
        response = await ask(
            self._runtime.attach(
                cri.AttachRequest(
                    container_id=container_id,
                    tty=_flag(request, "tty"),
                    stdin=_flag(request, "input", "stdin"),
                    stdout=_flag(request, "output", "stdout"),
                    # On a terminal there is one output; clients that ask for two are not refused.
                    stderr=_flag(request, "error", "stderr") and not _flag(request, "tty"),
                )
            )
        )
        return await proxy_upgrade(request, response.url)

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        found = await self._lookup.pod(request)
        sandbox = found.runtime.ready_sandbox
        if sandbox is None:
            raise web.HTTPNotFound(text=f'pod "{request.match_info["pod"]}" is not running')
        ports = [int(p) for text in request.query.getall("port", []) for p in text.split(",") if p.isdigit()]
        response = await ask(
            self._runtime.port_forward(cri.PortForwardRequest(pod_sandbox_id=sandbox.id, port=ports))
        )
        return await proxy_upgrade(request, response.url)

    async def run(self, request: web.Request) -> web.StreamResponse:
        container_id = await self._lookup.running_container(request)
        command = request.query.getall("cmd", [])
        if len(command) == 1:
            command = command[0].split()
        response = await ask(
            self._runtime.exec_sync(cri.ExecSyncRequest(container_id=container_id, cmd=list(command)))
        )
        return web.Response(body=response.stdout + response.stderr)


def _flag(request: web.Request, *accepted: str) -> bool:
    """Upstream's kubelet reads `input`, `output`, `error`; the API server's names are taken as well."""
    return any(request.query.get(name) in ("1", "true") for name in accepted)


async def ask(call: Awaitable[T]) -> T:
    try:
        return await call
    except CRIError as err:
        status = {Code.NOT_FOUND: web.HTTPNotFound, Code.INVALID_ARGUMENT: web.HTTPBadRequest}
        raise status.get(err.code, web.HTTPInternalServerError)(text=err.message) from err
