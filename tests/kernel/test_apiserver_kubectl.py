"""What people do with kubectl, oldest and newest, against the real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kernel.apiserver_local import Cluster, Ran
from podling.machine.kubectl import KubectlNotFoundError, kubectl_path

Kubectl = Callable[..., Awaitable[Ran]]

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: nginx
    image: nginx:1
    ports: [{containerPort: 80}]
"""


@pytest.fixture(params=["1.27", "1.37"])
def binary(request: pytest.FixtureRequest) -> Path:
    try:
        return kubectl_path(request.param)
    except KubectlNotFoundError as err:
        pytest.skip(f"needs kubectl {request.param}: {err}")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.server.start()
    yield cluster
    await cluster.server.stop()


@pytest.fixture
def kubectl(cluster: Cluster, binary: Path) -> Kubectl:
    """Runs kubectl; its output when it succeeds, with `fails=True` its complaint."""

    async def run(*args: str, fails: bool = False, **options: str) -> str:
        ran = await cluster.kubectl(binary, *args, **options)
        assert (ran.code != 0) is fails, ran
        return ran.err if fails else ran.out

    return run


async def test_apply_edit_and_delete(kubectl):
    assert await kubectl("apply", "-f", "-", stdin=POD) == "pod/web created\n"
    assert await kubectl("apply", "-f", "-", stdin=POD) == "pod/web unchanged\n"
    changed = POD.replace("nginx:1", "nginx:2")
    dry = await kubectl("apply", "--dry-run=server", "-f", "-", stdin=changed)
    assert dry == "pod/web configured (server dry run)\n"
    image = ("get", "pod", "web", "-o", "jsonpath={.spec.containers[0].image}")
    assert await kubectl(*image) == "nginx:1"
    assert await kubectl("apply", "-f", "-", stdin=changed) == "pod/web configured\n"
    assert await kubectl(*image) == "nginx:2"
    edited = await kubectl("edit", "pod", "web", KUBE_EDITOR="sed -i s/nginx:2/nginx:3/")
    assert edited == "pod/web edited\n"
    assert await kubectl(*image) == "nginx:3"
    assert (await kubectl("delete", "pod", "web")).startswith('pod "web" deleted')
    missing = await kubectl("get", "pod", "web", fails=True)
    assert missing == 'Error from server (NotFound): pods "web" not found\n'


async def test_labels_annotations_and_patches(kubectl):
    await kubectl("apply", "-f", "-", stdin=POD)
    await kubectl("label", "pod", "web", "tier=front")
    await kubectl("annotate", "pod", "web", "note=x")
    assert "web" in await kubectl("get", "pods", "-l", "tier=front,app=web")
    assert await kubectl("get", "pods", "-l", "tier=back", "-o", "name") == ""
    await kubectl("label", "pod", "web", "tier-")
    patch = '[{"op":"test","path":"/metadata/labels/app","value":"other"}]'
    assert await kubectl("patch", "pod", "web", "--type=json", "-p", patch, fails=True)
    await kubectl("patch", "pod", "web", "-p", '{"metadata":{"labels":{"app":null}}}')
    labels = await kubectl("get", "pod", "web", "-o", "jsonpath={.metadata.labels}")
    assert labels == ""


async def test_tables_wide_and_narrow(kubectl):
    await kubectl("apply", "-f", "-", stdin=POD)
    header, row = (await kubectl("get", "pods", "-o", "wide")).splitlines()
    assert header.split() == [
        *("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"),
        *("NOMINATED", "NODE", "READINESS", "GATES"),
    ]
    assert row.split()[:4] == ["web", "0/1", "Pending", "0"]
    services = await kubectl("get", "svc", "-A")
    assert "kubernetes" in services
    assert "10.96.0.1" in services
    assert "Active" in await kubectl("get", "namespaces")


async def test_describe_and_explain(kubectl):
    await kubectl("apply", "-f", "-", stdin=POD)
    described = await kubectl("describe", "pod", "web")
    assert "Image:        nginx:1" in described
    assert "QoS Class:        BestEffort" in described
    explained = await kubectl("explain", "pod.spec.containers.imagePullPolicy")
    assert "Image pull policy" in explained
    assert "coordination.k8s.io" in await kubectl("explain", "lease")


async def test_what_create_makes(kubectl):
    assert await kubectl("create", "namespace", "team") == "namespace/team created\n"
    again = await kubectl("create", "namespace", "team", fails=True)
    assert again == 'Error from server (AlreadyExists): namespaces "team" already exists\n'
    await kubectl("create", "configmap", "cm", "--from-literal=a=b")
    assert await kubectl("get", "cm", "cm", "-o", "jsonpath={.data.a}") == "b"
    await kubectl("create", "secret", "generic", "s", "--from-literal=password=x")
    assert await kubectl("get", "secret", "s", "-o", "jsonpath={.data.password}") == "eA=="
    await kubectl("create", "serviceaccount", "robot")
    await kubectl("create", "service", "clusterip", "front", "--tcp=80:8080")
    assert await kubectl("get", "svc", "front", "-o", "jsonpath={.spec.ports[0].targetPort}") == "8080"
    await kubectl("run", "shell", "--image=busybox", "--restart=Never")
    assert await kubectl("get", "pod", "shell", "-o", "jsonpath={.spec.restartPolicy}") == "Never"
    await kubectl("expose", "pod", "shell", "--port=80")
    await kubectl("delete", "configmaps,secrets", "--all")


async def test_api_resources_and_versions(kubectl):
    resources = await kubectl("api-resources", "--no-headers", "-o", "name")
    assert {"pods", "nodes", "leases.coordination.k8s.io"} <= set(resources.split())
    assert "v1.37.0+podling" in await kubectl("version")
    assert "running at" in await kubectl("cluster-info")
    assert await kubectl("get", "--raw", "/readyz") == "ok"
    assert await kubectl("auth", "can-i", "create", "pods") == "yes\n"


async def test_faults_in_manifests(kubectl):
    unknown = await kubectl("apply", "-f", "-", stdin=POD.replace("image:", "imagee:"), fails=True)
    assert 'strict decoding error: unknown field "spec.containers[0].imagee"' in unknown
    wrong = POD.replace("{containerPort: 80}", "{containerPort: x}")
    assert "cannot unmarshal string into Go struct field" in await kubectl(
        "apply", "-f", "-", stdin=wrong, fails=True
    )
    name = POD.replace("name: web", "name: Web_1")
    invalid = await kubectl("apply", "-f", "-", stdin=name, fails=True)
    assert 'The Pod "Web_1" is invalid: metadata.name: Invalid value: "Web_1"' in invalid
    zebra = "apiVersion: v1\nkind: Zebra\nmetadata: {name: z}\n"
    unknown = await kubectl("apply", "-f", "-", stdin=zebra, fails=True)
    assert 'no matches for kind "Zebra" in version "v1"' in unknown
    nowhere = await kubectl("-n", "nope", "create", "configmap", "a", fails=True)
    assert 'namespaces "nope" not found' in nowhere
    field = await kubectl("get", "pods", "--field-selector=spec.foo=1", fails=True)
    assert "field label not supported: spec.foo" in field


async def test_a_warning_is_printed(cluster, binary, kubectl):
    manifest = POD.replace("image:", "colour: red\n    image:")
    ran = await cluster.kubectl(binary, "apply", "--validate=warn", "-f", "-", stdin=manifest)
    assert ran.code == 0
    assert ran.err == 'Warning: unknown field "spec.containers[0].colour"\n'


async def test_a_stranger_is_forbidden(cluster, kubectl):
    cluster.issue("joe", "developers")
    answer = await kubectl("get", "pods", user="joe", fails=True)
    assert answer == (
        'Error from server (Forbidden): pods is forbidden: User "joe" cannot list resource "pods" '
        'in API group "" in the namespace "default"\n'
    )


async def test_a_watch_prints_what_happens(cluster, binary, kubectl):
    watching = await cluster.start_kubectl(binary, "get", "pods", "--watch", "--no-headers")
    assert watching.stdout is not None
    await kubectl("apply", "-f", "-", stdin=POD)
    async with asyncio.timeout(20):
        assert (await watching.stdout.readline()).split()[:3] == [b"web", b"0/1", b"Pending"]
        await kubectl("delete", "pod", "web")
        assert (await watching.stdout.readline()).split()[0] == b"web"
    watching.terminate()
    await watching.communicate()


async def test_waiting_for_a_condition_and_for_a_deletion(cluster, binary, kubectl):
    await kubectl("apply", "-f", "-", stdin=POD)
    waiting = asyncio.create_task(kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/web"))
    gone = asyncio.create_task(kubectl("wait", "--for=delete", "pod/web", "--timeout=20s"))
    await kubectl("patch", "pod", "web", "--subresource=status", "-p", '{"status":{"phase":"Running"}}')
    assert await waiting == "pod/web condition met\n"
    await kubectl("delete", "pod", "web")
    await gone


async def test_a_namespace_is_deleted_in_two_steps(kubectl):
    await kubectl("create", "namespace", "team")
    await kubectl("delete", "namespace", "team", "--wait=false")
    assert "Terminating" in await kubectl("get", "namespace", "team")
    refused = await kubectl("-n", "team", "create", "configmap", "a", fails=True)
    assert "because it is being terminated" in refused


async def test_nodes_are_cordoned_tainted_and_drained(kubectl):
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"
    await kubectl("apply", "-f", "-", stdin=node)
    await kubectl("cordon", "n1")
    await kubectl("taint", "node", "n1", "a=b:NoSchedule")
    pod = POD.replace("spec:", "spec:\n  nodeName: n1\n  terminationGracePeriodSeconds: 0", 1)
    await kubectl("apply", "-f", "-", stdin=pod)
    drained = await kubectl("drain", "n1", "--force", "--timeout=20s")
    assert "node/n1 drained" in drained
    assert await kubectl("get", "pods", "-o", "name") == ""
