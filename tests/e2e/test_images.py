"""Images from a private registry through real kubectl: secrets of the pod and of its service account."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.registry_local import HTPASSWD, PASSWORD, USER, Pusher, needs_registry, run_registry
from podling.testing.cluster import PodlingCluster, eventually, pod
from unit.runtime.images.layers import entry, layer, symlink

pytestmark = needs_registry

NODE = "kube-node-1"
CONF = "/etc/containers/registries.conf.d/podling-test.conf"

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def registry(cluster: PodlingCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry on the machine that wants a password, and that one node may ask without TLS."""
    directory = tmp_path_factory.mktemp("registry")
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "private", "path": str(directory / "htpasswd")}}
    with run_registry(directory, host=f"10.192.{cluster.index}.1", auth=auth) as address:
        config = f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
        cluster.node(NODE, "sh", "-c", f"mkdir -p $(dirname {CONF}); printf '%s' '{config}' > {CONF}")
        yield address
        cluster.node(NODE, "rm", CONF)
        for line in cluster.podling("image", "list").splitlines():
            if line.startswith(address):
                name, tag = line.split()[:2]
                eventually(lambda ref=f"{name}:{tag}": cluster.podling("image", "rm", ref))


def push(registry: str, name: str) -> str:
    """Busybox in one layer, another image for each name; its reference."""
    program = Path("/bin/busybox").read_bytes()
    content = layer(
        entry("bin/busybox", program, mode=0o755),
        symlink("bin/sleep", "busybox"),
        entry("name", name.encode()),
    )
    Pusher(registry, headers={"Authorization": f"Basic {BASIC}"}).image(f"team/{name}", "1", [content])
    return f"{registry}/team/{name}:1"


def sleeper(image: str) -> dict[str, Any]:
    return {"name": "main", "image": image, "command": ["/bin/sleep", "3600"]}


def make_secret(cluster: PodlingCluster, namespace: str, registry: str) -> None:
    options = [f"--docker-server={registry}", f"--docker-username={USER}", f"--docker-password={PASSWORD}"]
    cluster.kubectl("create", "secret", "docker-registry", "registry", "-n", namespace, *options)


def ready(cluster: PodlingCluster, namespace: str, name: str) -> None:
    cluster.kubectl("wait", "-n", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=60s")


def described(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return cluster.kubectl("describe", "pod", name, "-n", namespace)


def test_a_private_image_needs_the_pods_secret_also_when_another_pod_has_brought_it(
    cluster: PodlingCluster, namespace: str, registry: str
) -> None:
    image = push(registry, "private")
    denied = (
        f'Failed to pull image "{image}": failed to pull and unpack image "{image}": failed to resolve '
        f'reference "{image}": pull access denied, repository does not exist or may require authorization: '
        "authorization failed: no basic auth credentials"
    )
    always = sleeper(image) | {"imagePullPolicy": "Always"}
    make_secret(cluster, namespace, registry)
    secrets = [{"name": "registry"}]
    cluster.apply(pod("with", always, namespace=namespace, nodeName=NODE, imagePullSecrets=secrets))
    ready(cluster, namespace, "with")
    cluster.apply(pod("without", always, namespace=namespace, nodeName=NODE))

    def told() -> None:
        text = described(cluster, namespace, "without")
        assert denied in text
        assert "Error: ErrImagePull" in text
        assert f"{USER}:{PASSWORD}" not in text
        assert BASIC not in text

    eventually(told)
    assert "Successfully pulled image" in described(cluster, namespace, "with")


def test_a_service_accounts_secrets_are_its_pods(
    cluster: PodlingCluster, namespace: str, registry: str
) -> None:
    image = push(registry, "account")
    make_secret(cluster, namespace, registry)
    patch = '{"imagePullSecrets": [{"name": "registry"}]}'
    eventually(lambda: cluster.kubectl("patch", "serviceaccount", "default", "-n", namespace, "-p", patch))
    cluster.apply(pod("plain", sleeper(image), namespace=namespace, nodeName=NODE))
    ready(cluster, namespace, "plain")
    found = cluster.get("pod", "plain", "-n", namespace)
    assert found["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    status = found["status"]["containerStatuses"][0]
    assert status["image"] == image
    assert status["imageID"].startswith(f"{image.removesuffix(':1')}@sha256:")


def test_a_tag_that_is_not_there_and_a_secret_that_is_not_there(
    cluster: PodlingCluster, namespace: str, registry: str
) -> None:
    image = f"{registry}/team/private:nosuch"
    make_secret(cluster, namespace, registry)
    secrets = [{"name": "absent"}, {"name": "registry"}]
    cluster.apply(pod("absent", sleeper(image), namespace=namespace, nodeName=NODE, imagePullSecrets=secrets))

    def told() -> None:
        text = described(cluster, namespace, "absent")
        assert (
            "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not "
            "succeed."
        ) in text
        assert (
            f'Failed to pull image "{image}": rpc error: code = NotFound desc = failed to pull and unpack '
            f'image "{image}": failed to resolve reference "{image}": {image}: not found'
        ) in text

    eventually(told)
