"""Whatever a client sends, the answer is a Status with a reason, never an internal error."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import pytest

from podling.apiserver.request import Stream
from unit.apiserver.harness import CONFIG_MAPS, PODS

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "labels": {"a": "b"},
        "annotations": {"x": "y"},
        "finalizers": ["example.com/f"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}],
    },
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
                    ]
                }
            }
        },
        "volumes": [
            {"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
            {"name": "e", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
        "initContainers": [{"name": "i", "image": "busybox", "command": ["true"]}],
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "ports": [{"containerPort": 80, "hostPort": 8080}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": 1, "memory": "64Mi"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
            }
        ],
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s"},
    "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]},
}
OTHERS = {
    "services": SERVICE,
    "secrets": {"metadata": {"name": "x"}, "data": {"k": "eA=="}, "stringData": {"s": "t"}, "type": "Opaque"},
    "configmaps": {"metadata": {"name": "x"}, "data": {"k": "v"}, "binaryData": {"b": "eA=="}},
    "endpoints": {
        "metadata": {"name": "x"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
    },
    "events": {
        "metadata": {"name": "x"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "r",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    },
    "pods": POD,
}
ODD: list[Any] = [
    None, "", "x", "ü\u0000\n", "a" * 300, 0, -1, 2**40, 2**70, 1.5, True, [], {}, [None], [[]], {"": ""},
    {"a": None}, [{"a": []}], "1Gi", "-5", "10.0.0.1", "None", ["x", "x"], {"name": "x"},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return document


def cases() -> list[tuple[str, tuple[Any, ...], Any]]:
    everything = [
        (plural, path, odd) for plural, document in OTHERS.items() for path in places(document) for odd in ODD
    ]
    return random.Random(1).sample(everything, 600)


async def test_odd_values_anywhere_in_a_create_or_patch(api):
    base = "/api/v1/namespaces/default"
    for plural, path, odd in cases():
        document = changed(OTHERS[plural], path, odd)
        status, answer = await api.post(f"{base}/{plural}", document, dryRun="All")
        assert status in (201, 400, 403, 404, 405, 409, 422, 500), (plural, path, odd, answer)
        assert answer.get("reason") != "InternalError", (plural, path, odd, answer)
        if status == 201:
            document["metadata"].pop("finalizers", None)
            status, made = await api.post(f"{base}/{plural}", document)
            if status == 201:
                await api.get(f"{base}/{plural}", accept="application/json;as=Table;v=v1;g=meta.k8s.io")
                await api.delete(f"{base}/{plural}/{made['metadata']['name']}")


async def test_odd_values_in_every_kind_of_patch(api):
    made = await api.created(PODS, POD)
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    await api.patch(f"{PODS}/p/status", status, "strategic")
    chance = random.Random(2)
    every = places(POD)
    for _ in range(300):
        path, odd = chance.choice(every), chance.choice(ODD)
        patch: Any = odd
        for step in reversed(path):
            patch = {step: patch} if isinstance(step, str) else [patch]
        for kind in ("merge", "strategic"):
            for target in (f"{PODS}/p", f"{PODS}/p/status"):
                code, answer = await api.patch(target, patch, kind, dryRun="All")
                assert answer.get("reason") != "InternalError", (kind, path, odd, answer)
        pointer = "/" + "/".join(map(str, path))
        for operation in ("add", "replace", "remove", "test", "move", "copy", "odd"):
            patch = [{"op": operation, "path": pointer, "value": odd, "from": pointer}]
            code, answer = await api.patch(f"{PODS}/p", patch, "json", dryRun="All")
            assert answer.get("reason") != "InternalError", (operation, path, odd, answer)
            assert code != 200 or answer["metadata"]["uid"] == made["metadata"]["uid"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b"{" * 5000,
        b'{"metadata":' * 2000,
        b'{"metadata":{"name":"\\ud800"}}',
        b'{"metadata":{"name":1.5}}',
        b'{"kind":5}',
        b'{"metadata":[]}',
        b"k8s\0",
        b"k8s\0\xff\xff",
    ],
)
@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", ";;", "a/b"],
)
async def test_odd_bodies(api, body, content_type):
    status, answer = await api.post(CONFIG_MAPS, body, content_type=content_type, fieldValidation="Strict")
    assert status in (400, 415, 422), answer
    status, answer = await api.delete(f"{CONFIG_MAPS}/x", body, content_type=content_type)
    assert status in (400, 404, 415), answer
    for kind in ("json", "merge", "strategic"):
        status, answer = await api.patch(f"{CONFIG_MAPS}/x", body, kind)
        assert status in (400, 404, 422), answer


async def test_odd_queries_and_headers(api):
    chance = random.Random(3)
    names = [
        "watch",
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "labelSelector",
        "fieldSelector",
        "timeoutSeconds",
        "allowWatchBookmarks",
        "sendInitialEvents",
        "dryRun",
        "fieldValidation",
        "includeObject",
        "gracePeriodSeconds",
        "propagationPolicy",
        "pretty",
    ]
    values = [
        "",
        "0",
        "1",
        "-1",
        "true",
        "x",
        "=",
        ",",
        "a=b",
        "a in (",
        "All",
        "Exact",
        "9" * 30,
        "ü\u0000",
        "!",
    ]
    accepts = [
        "", "*/*", "application/json", "x", ";", ",", "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=Other;v=v1;g=meta.k8s.io", "application/yaml;q=0.1,*/*;q=x",
    ]  # fmt: skip
    await api.created(CONFIG_MAPS, {"metadata": {"name": "x"}})
    for _ in range(400):
        query = {name: chance.choice(values) for name in chance.sample(names, 3)}
        method = chance.choice(["GET", "GET", "GET", "DELETE", "POST", "PUT", "PATCH", "HEAD", "ODD"])
        path = chance.choice(
            [CONFIG_MAPS, f"{CONFIG_MAPS}/x", "/api/v1/configmaps", "/", "/api", "/openapi/v3"]
        )
        answer = await api.answer(method, path, accept=chance.choice(accepts), **query)
        if isinstance(answer, Stream):
            await answer.chunks.aclose()
        elif answer.status >= 500:
            assert msgspec.json.decode(answer.body)["reason"] == "Timeout", (method, path, query, answer)
