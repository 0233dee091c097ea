"""The way to the kubelets: where each one listens, who we are to it, and requests that read a stream.

The address is what the node itself reported: the InternalIP of its status and the port of its daemon
endpoint.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import aiohttp

from podling.apiserver import errors
from podling.apiserver.config import APIServerConfig

DEFAULT_PORT = 10250
CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 64 * 1024
MAX_ERROR_BYTES = 10_000


class Kubelets:
    """One a server. `close` in the loop that used it."""

    def __init__(self, config: APIServerConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """Raises APIError when this server was given no identity for kubelets."""
        config = self._config
        if config.kubelet_client_cert is None or config.kubelet_ca is None:
            raise errors.internal("this server has no client certificate for kubelets")
        context = ssl.create_default_context(cafile=str(config.kubelet_ca))
        # Nodes are reached by address, and their certificates may name only the node, as kubeadm's do.
        context.check_hostname = False
        context.load_cert_chain(config.kubelet_client_cert, config.kubelet_client_key)
        return context

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open(self, url: str, *, resource: str, name: str) -> AsyncIterator[bytes]:
        """GET `url`; returns once the kubelet has agreed, with the body to come.

        Raises APIError: the kubelet's refusal, or that it cannot be reached.
        """
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
            connector = aiohttp.TCPConnector(ssl=self.ssl_context, limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            response = await self._session.get(url, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise errors.internal(f'Get "{url}": {str(err) or type(err).__name__}') from err
        if not 200 <= response.status <= 206:
            try:
                text = (await response.content.read(MAX_ERROR_BYTES)).decode("utf-8", "replace")
            finally:
                response.close()
            raise _refusal(response.status, text, resource=resource, name=name)
        return _body(response)


async def _body(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except aiohttp.ClientError:
        # The kubelet went away in the middle of the answer: all that is left is to end ours.
        return
    finally:
        response.close()


def _refusal(code: int, text: str, *, resource: str, name: str) -> errors.APIError:
    """As upstream's GenericHttpResponseChecker reads a kubelet's answer."""
    text = text.strip()
    if code == 500:
        return errors.internal(text)
    if code == 400:
        return errors.bad_request(text)
    if code == 404:
        message = f"the server could not find the requested resource ({resource} {name})"
        return errors.APIError(404, "NotFound", message, details=errors.details(resource, name))
    if code in (401, 403):
        message = f"the kubelet refused this API server: {text}"
        return errors.APIError(code, "Forbidden", message, details=errors.details(resource, name))
    return errors.APIError(code, "", text or f"the kubelet answered with code {code}")


def base_url(node: dict[str, Any]) -> str:
    """`https://ADDRESS:PORT` of a node's kubelet. Raises APIError while the node has not said it."""
    name = node["metadata"]["name"]
    status = node.get("status") or {}
    addresses = {a.get("type"): a.get("address") for a in reversed(status.get("addresses") or [])}
    address = addresses.get("InternalIP") or addresses.get("ExternalIP") or addresses.get("Hostname")
    if not address:
        raise errors.internal(
            f"no preferred addresses found; known addresses: {sorted(filter(None, addresses))} of node {name}"
        )
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    return f"https://{address}:{endpoint.get('Port') or DEFAULT_PORT}"
