"""GET pods/NAME/log: the kubelet's answer, passed on as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlencode

from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.podnode import container_names, node_of, pod_of
from podling.apiserver.kubelets import base_url
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request, Response, Stream
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource

_PASSED_ON = (
    "follow",
    "previous",
    "timestamps",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "limitBytes",
    "stream",
)


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    pod = await pod_of(cluster, info)
    _check_options(request)
    container = _container(pod, request.query.get("container"))
    node = await node_of(cluster, pod)
    if node is None:
        return Response(200, b"", "text/plain")
    query = urlencode([(name, request.query.get(name)) for name in _PASSED_ON if name in request.query])
    path = f"/containerLogs/{info.namespace}/{info.name}/{container}"
    url = f"{base_url(node)}{path}{'?' if query else ''}{query}"
    chunks: AsyncIterator[bytes] = await cluster.kubelets.open(url, resource="pods/log", name=info.name)
    return Stream(200, chunks, "text/plain")


def _check_options(request: Request) -> None:
    """Raises APIError 400, 422."""
    query = request.query
    for name, least in (("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)):
        value = query.integer(name)
        if value is not None and value < least:
            why = "must be greater than 0" if least else "must be greater than or equal to 0"
            raise _invalid(f"{name}: Invalid value: {value}: {why}")
    if "sinceSeconds" in query and "sinceTime" in query:
        raise _invalid("Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified")


def _invalid(text: str) -> errors.APIError:
    return errors.APIError(422, "Invalid", f'PodLogOptions.v1 "" is invalid: {text}')


def _container(pod: Object, wanted: str) -> str:
    """The container to read, the only one if none is named. Raises APIError 400."""
    name = pod["metadata"]["name"]
    plain, init, ephemeral = container_names(pod)
    if wanted:
        if wanted not in (*plain, *init, *ephemeral):
            raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(plain) + len(init) + len(ephemeral) == 1:
        return (*plain, *init, *ephemeral)[0]
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(plain)}]"
    if init:
        text += f" or one of the init containers: [{' '.join(init)}]"
    if ephemeral:
        text += f" or one of the ephemeral containers: [{' '.join(ephemeral)}]"
    raise errors.bad_request(text)
