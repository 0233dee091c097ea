"""exec, attach and portforward: the client's connection is passed on to the kubelet, whatever it speaks."""

from __future__ import annotations

from urllib.parse import urlencode

from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.handlers.podnode import assigned_node_of, container_names, pod_of
from podling.apiserver.kubelets import base_url
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request, Upgrade
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource

# The API's names of the streams, and the kubelet's.
_STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))


async def handle_exec(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    pod = await pod_of(cluster, info)
    if not request.query.all("command"):
        raise _invalid("PodExecOptions", "command: Required value")
    query = [*_streams(request, "PodExecOptions"), *(("command", c) for c in request.query.all("command"))]
    return await _upgrade(cluster, request, info, pod, "exec", query)


async def handle_attach(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    pod = await pod_of(cluster, info)
    return await _upgrade(cluster, request, info, pod, "attach", _streams(request, "PodAttachOptions"))


async def handle_port_forward(
    cluster: Cluster, request: Request, info: RequestInfo, resource: Resource
) -> Answer:
    pod = await pod_of(cluster, info)
    node = await assigned_node_of(cluster, pod)
    _check_upgrade(request)
    # Over WebSocket the ports stand in the URL, over SPDY in the streams' headers.
    ports = [p for text in request.query.all("ports") for p in text.split(",")]
    query = urlencode([("port", port) for port in ports])
    path = f"/portForward/{info.namespace}/{info.name}"
    return Upgrade(f"{base_url(node)}{path}{'?' if query else ''}{query}")


async def _upgrade(
    cluster: Cluster,
    request: Request,
    info: RequestInfo,
    pod: Object,
    verb: str,
    query: list[tuple[str, str]],
) -> Upgrade:
    container = _container(pod, request.query.get("container"))
    node = await assigned_node_of(cluster, pod)
    _check_upgrade(request)
    path = f"/{verb}/{info.namespace}/{info.name}/{container}"
    return Upgrade(f"{base_url(node)}{path}?{urlencode(query)}")


def _streams(request: Request, kind: str) -> list[tuple[str, str]]:
    """The kubelet's parameters for the streams asked for. Raises APIError 422."""
    wanted = {name: request.query.flag(name) for name, _ in _STREAMS}
    if wanted["tty"] and wanted["stderr"]:
        # Upstream's clients never ask for both; a terminal has one output.
        raise _invalid(kind, "tty and stderr cannot both be true")
    if not (wanted["stdin"] or wanted["stdout"] or wanted["stderr"]):
        raise _invalid(kind, "at least one of stdin, stdout, or stderr must be true")
    return [(theirs, "1") for name, theirs in _STREAMS if wanted[name]]


def _container(pod: Object, wanted: str) -> str:
    """Raises APIError 400."""
    name = pod["metadata"]["name"]
    plain, init, ephemeral = container_names(pod)
    if not wanted:
        if len(plain) == 1:
            return plain[0]
        text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(plain)}]"
        if init:
            text += f" or one of the init containers: [{' '.join(init)}]"
        raise errors.bad_request(text)
    if wanted not in (*plain, *init, *ephemeral):
        raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
    return wanted


def _check_upgrade(request: Request) -> None:
    if not request.upgrade:
        raise errors.APIError(400, "BadRequest", "Upgrade request required")


def _invalid(kind: str, text: str) -> errors.APIError:
    return errors.APIError(422, "Invalid", f'{kind}.v1 "" is invalid: {text}')
