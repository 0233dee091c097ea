"""Static pods: what a manifest means, and their mirrors in the API."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from podling.api import core_v1
from podling.api.references import referenced_resources
from podling.client.client import Client
from podling.client.errors import ApiError
from podling.kubelet.kubelet import Kubelet
from podling.kubelet.static_pods.manifest import FILE, HTTP, ManifestError, read_manifest

from .conftest import NODE, NodeUnderTest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAME = f"web-{NODE}"


def manifest(**spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "busybox"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"containers": containers, **spec},
    }


def read(document: Any, *, node: str = NODE, place: str = "/m/web.yaml", **more: Any) -> list[core_v1.Pod]:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    return read_manifest(text.encode(), source=FILE, place=place, node=node, now=NOW, **more)


def test_a_manifest_is_completed_as_upstream_does() -> None:
    (pod,) = read(manifest(priorityClassName="system-node-critical"))
    assert pod.metadata.name == NAME
    assert pod.metadata.namespace == "default"
    assert pod.metadata.annotations == {
        "kubernetes.io/config.hash": pod.metadata.uid,
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.seen": "2026-01-02T03:04:05.000000Z",
    }
    assert pod.metadata.uid is not None
    assert len(pod.metadata.uid) == 32
    assert pod.spec is not None
    assert pod.spec.node_name == NODE
    assert pod.spec.restart_policy == "Always"
    assert pod.spec.service_account_name is None
    assert [(t.operator, t.effect) for t in pod.spec.tolerations] == [("Exists", "NoExecute")]
    assert pod.spec.priority == 2_000_001_000


def test_the_uid_follows_from_manifest_place_and_node() -> None:
    uid = read(manifest())[0].metadata.uid
    assert read(manifest())[0].metadata.uid == uid
    others = [
        read(manifest(hostNetwork=True)),
        read(manifest(), place="/m/other.yaml"),
        read(manifest(), node="node-2"),
    ]
    assert uid not in [pods[0].metadata.uid for pods in others]
    said = manifest()
    said["metadata"]["uid"] = "mine"
    assert read(said)[0].metadata.uid == "mine"


def test_a_url_may_have_a_list() -> None:
    other = manifest()
    other["metadata"]["name"] = "other"
    listed = {"apiVersion": "v1", "kind": "PodList", "items": [manifest(), other]}
    text = yaml.safe_dump(listed).encode()
    pods = read_manifest(text, source=HTTP, place="http://x", node=NODE, now=NOW, many=True)
    assert [pod.metadata.name for pod in pods] == [NAME, f"other-{NODE}"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "couldn't parse as pod"),
        ("just text", "Object 'Kind' is missing"),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, 'found "ConfigMap" of version "v1"'),
        ({**manifest(), "metadata": {}}, "name is needed for the pod"),
        (manifest(containers=[]), "spec.containers: Required value"),
        (manifest(containers=[{"name": "a", "imagee": "b"}]), 'unknown field "spec.containers[0].imagee"'),
        (manifest(hostNetwork="yes"), "hostNetwork"),
        (manifest(serviceAccountName="x"), "static pods may not reference serviceaccounts"),
        (
            manifest(volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
            "static pods may not reference secrets",
        ),
        (
            manifest(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
            "static pods may not reference persistentvolumeclaims",
        ),
        (
            manifest(containers=[{"name": "a", "image": "b", "envFrom": [{"configMapRef": {"name": "c"}}]}]),
            "static pods may not reference configmaps",
        ),
    ],
)
def test_what_means_no_pod_says_why(document: Any, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(document)
    assert words in str(caught.value)


def test_references_are_found_wherever_they_are() -> None:
    projected = {"sources": [{"serviceAccountToken": {"path": "t"}}, {"configMap": {"name": "c"}}]}
    value = {"secretKeyRef": {"name": "s", "key": "k"}}
    spec = {
        "volumes": [{"name": "p", "projected": projected}, {"name": "e", "emptyDir": {}}],
        "initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": value}]}],
    }
    assert referenced_resources(spec) == ["serviceaccounts", "secrets", "configmaps"]
    assert referenced_resources({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}) == []


# With a kubelet


@pytest.fixture
async def manifests(node: NodeUnderTest, tmp_path: Path) -> Path:
    """The kubelet of `node` watches this directory."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    await node.kill()
    node.config = dataclasses.replace(node.config, static_pod_path=directory, file_check_frequency_s=0.2)
    await node.start()
    return directory


def write(directory: Path, document: Any, name: str = "web.yaml") -> Path:
    """As an editor does: beside it, then in its place."""
    path = directory / name
    hidden = directory / f".{name}"
    hidden.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    hidden.rename(path)
    return path


async def test_a_static_pod_runs_and_is_mirrored(node: NodeUnderTest, manifests: Path) -> None:
    path = write(manifests, manifest())
    mirror = await node.ready(NAME)
    uid = mirror.metadata.annotations["kubernetes.io/config.mirror"]
    assert uid == mirror.metadata.annotations["kubernetes.io/config.hash"] != mirror.metadata.uid
    (owner,) = mirror.metadata.owner_references
    owned = await node.api.get(core_v1.Node, NODE)
    assert (owner.kind, owner.name, owner.uid, owner.controller) == ("Node", NODE, owned.metadata.uid, True)
    ((_, container),) = node.runtime.containers.values()
    assert container.labels["io.kubernetes.pod.uid"] == uid
    path.unlink()
    await node.gone(NAME)
    await node.eventually(lambda: _empty(node))


def _empty(node: NodeUnderTest) -> None:
    assert not node.runtime.containers
    assert not node.runtime.sandboxes


async def test_a_deleted_mirror_comes_back_and_nothing_restarts(node: NodeUnderTest, manifests: Path) -> None:
    write(manifests, manifest())
    first = await node.ready(NAME)
    containers = list(node.runtime.containers)
    await node.delete(NAME)

    async def another() -> None:
        assert (await node.get(NAME)).metadata.uid != first.metadata.uid

    await node.eventually(another)
    second = await node.ready(NAME)
    assert second.status == first.status
    assert list(node.runtime.containers) == containers


async def test_a_changed_manifest_is_another_pod(node: NodeUnderTest, manifests: Path) -> None:
    write(manifests, manifest(terminationGracePeriodSeconds=1))
    first = await node.ready(NAME)
    write(manifests, manifest(terminationGracePeriodSeconds=2))

    async def replaced() -> None:
        pod = await node.ready(NAME)
        hashes = [p.metadata.annotations["kubernetes.io/config.hash"] for p in (first, pod)]
        assert hashes[0] != hashes[1]
        assert len(node.runtime.containers) == 1

    await node.eventually(replaced, timeout_s=10)


async def test_a_broken_edit_is_told_and_changes_nothing(node: NodeUnderTest, manifests: Path) -> None:
    write(manifests, manifest())
    first = await node.ready(NAME)
    write(manifests, "kind: Pod\n  nonsense")
    write(manifests, manifest(containers=[]), "other.yaml")

    async def told() -> None:
        listed = (await node.api.list(core_v1.Event)).items
        texts = [e.message for e in listed if e.reason == "InvalidManifest"]
        assert any("web.yaml" in (text or "") for text in texts)
        assert any("other.yaml" in (text or "") and "spec.containers" in (text or "") for text in texts)

    await node.eventually(told)
    assert (await node.ready(NAME)).metadata.uid == first.metadata.uid


async def test_a_restarted_kubelet_finds_its_static_pods_again(node: NodeUnderTest, manifests: Path) -> None:
    write(manifests, manifest())
    first = await node.ready(NAME)
    containers = list(node.runtime.containers)
    await node.kill()
    await node.start()
    write(manifests, {**manifest(), "metadata": {"name": "two"}}, "two.yaml")
    await node.ready(f"two-{NODE}")
    again = await node.get(NAME)
    assert again.metadata.uid == first.metadata.uid
    assert again.status == first.status
    assert set(containers) <= set(node.runtime.containers)


async def test_what_went_while_the_kubelet_was_down_is_ended(node: NodeUnderTest, manifests: Path) -> None:
    path = write(manifests, manifest())
    await node.ready(NAME)
    await node.kill()
    path.unlink()
    await node.start()
    await node.gone(NAME)
    await node.eventually(lambda: _empty(node))


async def test_without_an_api_server_static_pods_run(node: NodeUnderTest, manifests: Path) -> None:
    await node.kill()
    write(manifests, manifest())
    alone = Kubelet(node.config, None, node.runtime, node.runtime)
    task = asyncio.create_task(alone.run())
    try:
        await node.eventually(lambda: _running(node))
        containers = list(node.runtime.containers)
    finally:
        task.cancel()
        await asyncio.wait([task])
    await node.start()
    await node.ready(NAME)
    assert list(node.runtime.containers) == containers


def _running(node: NodeUnderTest) -> None:
    assert [status.state.name for _, status in node.runtime.containers.values()] == ["CONTAINER_RUNNING"]


async def test_an_orphaned_mirror_is_deleted(node: NodeUnderTest, manifests: Path) -> None:
    document = manifest(nodeName=NODE)
    document["metadata"] |= {"name": "ghost", "annotations": {"kubernetes.io/config.mirror": "x"}}
    await node.api.raw("POST", "/api/v1/namespaces/default/pods", body=document)
    await node.gone("ghost")
    assert not node.runtime.containers


# What the API server lets be done to them


def mirror(node_uid: str, **changes: Any) -> dict[str, Any]:
    document = manifest(nodeName=NODE)
    document["metadata"] |= {
        "annotations": {"kubernetes.io/config.mirror": "x"},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node_uid, "controller": True}
        ],
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"metadata__annotations": {}},
            'annotation, node "node-1" can only create mirror pods',
        ),
        ({"spec__nodeName": "node-2"}, 'node "node-1" can only create pods with spec.nodeName set to itself'),
        (
            {"metadata__ownerReferences": []},
            'node "node-1" can only create pods with an owner reference set to itself',
        ),
        (
            {"spec__serviceAccountName": "sa"},
            'node "node-1" can not create pods that reference a service account',
        ),
        (
            {"spec__volumes": [{"name": "v", "configMap": {"name": "c"}}]},
            'node "node-1" can not create pods that reference configmaps',
        ),
    ],
)
async def test_a_node_creates_only_mirrors(
    node: NodeUnderTest, kubelet_client: Client, changes: dict[str, Any], words: str
) -> None:
    uid = (await node.api.get(core_v1.Node, NODE)).metadata.uid or ""
    with pytest.raises(ApiError) as caught:
        await kubelet_client.raw("POST", "/api/v1/namespaces/default/pods", body=mirror(uid, **changes))
    assert caught.value.status.code == 403
    assert words in str(caught.value)


async def test_a_mirror_stays_a_mirror(node: NodeUnderTest, manifests: Path) -> None:
    write(manifests, manifest())
    await node.ready(NAME)
    for value in (None, "other"):
        patch = {"metadata": {"annotations": {"kubernetes.io/config.mirror": value}}}
        with pytest.raises(ApiError, match="may not remove or update mirror pod annotation"):
            await node.api.patch(core_v1.Pod, NAME, patch, "default")
    await node.create(name="plain", nodeName="elsewhere")
    patch = {"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}
    with pytest.raises(ApiError, match="may not add mirror pod annotation"):
        await node.api.patch(core_v1.Pod, "plain", patch, "default")
