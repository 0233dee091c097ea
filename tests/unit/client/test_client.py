from __future__ import annotations

from contextlib import aclosing

import pytest

from podling.api.core_v1 import Namespace, Node, Pod
from podling.api.meta_v1 import ObjectMeta
from podling.client import errors
from podling.client.client import Client, EventType, PatchType

from .conftest import ScriptedServer, event, pod, status


async def test_get_decodes_the_kind(server: ScriptedServer, client: Client) -> None:
    server.answers(pod("web", "7"))
    found = await client.get(Pod, "web", "default")
    assert found.metadata.name == "web"
    assert found.spec is not None
    assert found.spec.containers[0].image == "busybox"
    assert server.seen == [("GET", "/api/v1/namespaces/default/pods/web", {}, None)]
    assert server.headers[0]["User-Agent"] == "podling"


async def test_null_lists_and_maps_are_absent(server: ScriptedServer, client: Client) -> None:
    answer = pod("web", "7", labels=None, ownerReferences=None, creationTimestamp=None)
    answer["spec"]["containers"][0]["args"] = None
    answer["status"] = {"conditions": None}
    server.answers(answer)
    found = await client.get(Pod, "web", "default")
    assert found.metadata.labels == {}
    assert found.spec is not None
    assert found.spec.containers[0].args == []


async def test_a_body_that_is_no_json_is_a_decode_error(server: ScriptedServer, client: Client) -> None:
    server.answers("text, not an object")
    with pytest.raises(errors.DecodeError, match="cannot decode Pod"):
        await client.get(Pod, "web", "default")


async def test_list_of_nothing_is_null_in_go(server: ScriptedServer, client: Client) -> None:
    server.answers(
        {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": None}
    )
    result = await client.list(Pod, label_selector="a=b", field_selector="spec.nodeName=n1", limit=5)
    assert (result.items, result.resource_version, result.continue_token) == ([], "9", "")
    query = {"labelSelector": "a=b", "fieldSelector": "spec.nodeName=n1", "limit": "5"}
    assert server.seen == [("GET", "/api/v1/pods", query, None)]


async def test_list_says_where_to_continue(server: ScriptedServer, client: Client) -> None:
    server.answers({"metadata": {"resourceVersion": "9", "continue": "abc"}, "items": [pod("a", "1")]})
    result = await client.list(Pod, "default")
    assert result.continue_token == "abc"
    assert [p.metadata.name for p in result.items] == ["a"]


@pytest.mark.parametrize(
    ("code", "reason", "cls"),
    [
        (404, "NotFound", errors.NotFoundError),
        (409, "Conflict", errors.ConflictError),
        (409, "AlreadyExists", errors.AlreadyExistsError),
        (410, "Expired", errors.GoneError),
        (403, "Forbidden", errors.ForbiddenError),
        (401, "Unauthorized", errors.UnauthorizedError),
        (422, "Invalid", errors.InvalidError),
        (429, "TooManyRequests", errors.TooManyRequestsError),
        (504, "Timeout", errors.ServerTimeoutError),
        (500, "InternalError", errors.ServerError),
        (405, "MethodNotAllowed", errors.ApiError),
    ],
)
async def test_each_refusal_has_its_class(
    server: ScriptedServer, client: Client, code: int, reason: str, cls: type[errors.ApiError]
) -> None:
    server.answers(status(code, reason, "because"), status=code)
    with pytest.raises(errors.ApiError, match="because") as caught:
        await client.get(Pod, "web", "default")
    assert type(caught.value) is cls
    assert caught.value.code == code


async def test_an_error_page_becomes_the_message(server: ScriptedServer, client: Client) -> None:
    server.answers("some proxy is unhappy", status=503)
    with pytest.raises(errors.ServerError, match="some proxy is unhappy"):
        await client.get(Pod, "web", "default")


async def test_nobody_listening_is_a_transport_error() -> None:
    from podling.client.http import ClientConfig, HttpTransport

    transport = HttpTransport(ClientConfig(server="http://127.0.0.1:9"))
    with pytest.raises(errors.TransportError, match=r"GET http://127\.0\.0\.1:9/api/v1/nodes/n"):
        await Client(transport).get(Node, "n")
    await transport.close()


async def test_writes_name_path_body_and_content_type(server: ScriptedServer, client: Client) -> None:
    for _ in range(5):
        server.answers(pod("web", "7"))
    await client.create(Pod(metadata=ObjectMeta(name="web", namespace="default")))
    await client.update(Pod(metadata=ObjectMeta(name="web", namespace="default")), subresource="status")
    await client.patch(
        Pod, "web", {"status": {"phase": "Running"}}, "default",
        subresource="status", patch_type=PatchType.STRATEGIC,
    )  # fmt: skip
    await client.delete(Pod, "web", "default", grace_period_s=0, uid="u1")
    await client.bind("default", "web", "u1", "node-1")
    writer = {"fieldManager": "test"}
    assert [s[:3] for s in server.seen] == [
        ("POST", "/api/v1/namespaces/default/pods", writer),
        ("PUT", "/api/v1/namespaces/default/pods/web/status", writer),
        ("PATCH", "/api/v1/namespaces/default/pods/web/status", writer),
        ("DELETE", "/api/v1/namespaces/default/pods/web", {}),
        ("POST", "/api/v1/namespaces/default/pods/web/binding", {}),
    ]
    assert server.headers[2]["Content-Type"] == "application/strategic-merge-patch+json"
    assert server.seen[3][3] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u1"},
    }
    assert server.seen[4][3]["target"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1"}


async def test_cluster_scoped_kinds_have_no_namespace(server: ScriptedServer, client: Client) -> None:
    server.answers({"metadata": {"name": "dev"}})
    await client.get(Namespace, "dev")
    assert server.seen[0][1] == "/api/v1/namespaces/dev"


async def test_watch_yields_events_across_odd_chunks(server: ScriptedServer, client: Client) -> None:
    large = pod("large", "3", annotations={"text": "x" * 1_500_000})
    data = event("ADDED", pod("a", "2")) + event("MODIFIED", large) + event("DELETED", pod("a", "4"))
    server.streams(data[:100], data[100:70_000], data[70_000:])
    async with aclosing(client.watch(Pod, resource_version="1")) as events:
        seen = [(e.type, e.object.metadata.name, e.object.metadata.resource_version) async for e in events]
    assert seen == [
        (EventType.ADDED, "a", "2"),
        (EventType.MODIFIED, "large", "3"),
        (EventType.DELETED, "a", "4"),
    ]
    assert server.seen[0][2] == {"watch": "true", "resourceVersion": "1"}


async def test_watch_hides_bookmarks_unless_asked(server: ScriptedServer, client: Client) -> None:
    bookmark = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "8"}}
    for _ in range(2):
        server.streams(event("BOOKMARK", bookmark))
    assert [e async for e in client.watch(Pod, resource_version="1")] == []
    events = [e async for e in client.watch(Pod, resource_version="1", bookmarks=True)]
    assert events[0].object.metadata.resource_version == "8"


async def test_watch_from_a_forgotten_version_is_gone(server: ScriptedServer, client: Client) -> None:
    server.streams(event("ERROR", status(410, "Expired", "too old resource version: 1 (9)")))
    server.answers(status(410, "Expired"), status=410)
    for _ in range(2):
        with pytest.raises(errors.GoneError):
            [e async for e in client.watch(Pod, resource_version="1")]


async def test_watch_that_breaks_is_a_transport_error(server: ScriptedServer, client: Client) -> None:
    server.streams(event("ADDED", pod("a", "2")), abort=True)
    with pytest.raises(errors.TransportError):
        [e async for e in client.watch(Pod, resource_version="1")]
