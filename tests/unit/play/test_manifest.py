"""Manifests without a cluster: what becomes of them, and that no document gets past the checks."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podling.kubelet.config import KubeletConfig
from podling.kubelet.container_config import ContainerContext, ImageUser
from podling.kubelet.dns import ResolvConf
from podling.play.manifest import Manifest, ManifestError, pod_names, read_manifest
from podling.play.translate import container_wanted, pod_wanted
from podling.runtime.byhand.settings import Port, Restart

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "shareProcessNamespace": True,
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a", "b"]}],
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 7,
        "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "77"}]},
        "initContainers": [
            {"name": "init", "image": "busybox"},
            {"name": "sidecar", "image": "busybox", "restartPolicy": "Always"},
        ],
        "containers": [
            {
                "name": "main",
                "image": "nginx",
                "ports": [
                    {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
                    {"containerPort": 81},
                ],
                "readinessProbe": {"tcpSocket": {"port": 80}},
                "env": [{"name": "A", "value": "b"}],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "busybox"}]},
        },
    },
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"a": "b"}}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"a": "b"}}


def read(*documents: Any) -> Manifest:
    return read_manifest("\n---\n".join(map(json.dumps, documents)), "file")


def test_all_kinds_of_a_file() -> None:
    manifest = read(CONFIG, None, SECRET, {"kind": "List", "apiVersion": "v1", "items": [POD, DEPLOYMENT]})
    assert [pod.metadata.name for pod in manifest.pods] == ["web", "d-pod-0", "d-pod-1"]
    assert manifest.deployments == {"d": 2}
    assert manifest.warnings == ["file: Pod/web: readinessProbe: ignored, nobody probes without a kubelet"]
    assert manifest.sources.config_maps["conf"].data == {"a": "b"}
    assert manifest.sources.secrets["keys"].data == {"a": "Yg=="}
    assert pod_names("d", 1) == ["d-pod"]


def test_a_pod_in_the_words_of_the_runtime_by_hand() -> None:
    (pod,) = read(POD).pods
    config = KubeletConfig(node_name="here", node_ip="127.0.0.1")
    resolver = ResolvConf(servers=("192.0.2.53",))
    wanted = pod_wanted(pod, config, resolver=resolver)
    assert (wanted.name, wanted.hostname, wanted.network) == ("web", "web", "podling")
    assert wanted.ports == [Port(host_ip="127.0.0.1", host_port=8080, container_port=80)]
    assert "pid" in wanted.share
    assert wanted.extras.hosts == [("192.0.2.1", "a"), ("192.0.2.1", "b")]
    assert wanted.extras.sysctls == {"net.core.somaxconn": "77"}
    assert wanted.extras.dns is not None
    assert wanted.extras.dns.servers == ["192.0.2.53"]
    context = ContainerContext(attempt=0, image_id="x", image_user=ImageUser(uid=0))
    init, sidecar, main = (
        container_wanted(pod, one, context) for one in (*pod.spec.init_containers, *pod.spec.containers)
    )
    assert (init.name, init.init, init.restart) == ("web-init", True, Restart(policy="on-failure"))
    assert (sidecar.init, sidecar.restart) == (False, Restart(policy="always"))
    assert (main.image, main.stop_timeout_s, main.init) == ("nginx", 7, False)
    assert main.config is not None
    assert [(env.key, env.value) for env in main.config.envs] == [("A", b"b")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hostUsers": False}, "spec.hostUsers"),
        ({"activeDeadlineSeconds": 5}, "spec.activeDeadlineSeconds"),
        ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "spec.volumes[v].nfs"),
        ({"volumes": [{"name": "V"}]}, "spec.volumes[0].name"),
        ({"containers": []}, "spec.containers: Required value"),
        ({"containerz": []}, 'unknown field "spec.containerz"'),
        ({"restartPolicy": "Maybe"}, "spec.restartPolicy: Unsupported value"),
        ({"hostNetwork": "yes"}, "cannot unmarshal string into Go struct field PodSpec"),
    ],
)
def test_what_is_wrong_or_needs_a_cluster_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError) as err:
        read({**POD, "spec": {**POD["spec"], **change}})
    assert words in str(err.value)


def test_other_faults() -> None:
    for documents, words in (
        ([{**CONFIG, "kind": "Service"}, POD], "Service/conf (v1): not supported"),
        ([{**POD, "apiVersion": "v2"}], "Pod/web (v2): not supported"),
        ([{"kind": ""}], "/ (None): not supported"),
        (["text"], "Object 'Kind' is missing"),
        ([{"kind": "List", "items": 7}], "Object 'Kind' is missing"),
        ([CONFIG], "nothing to run"),
        ([], "nothing to run"),
        ([POD, POD], "several pods are named web"),
    ):
        with pytest.raises(ManifestError) as err:
            read(*documents)
        assert words in str(err.value)


@pytest.mark.parametrize(
    "text",
    ["kind: [", "a: !!binary AAAA", "? [x]\n: y", "&a [*a]", "2024-01-01", "\0", "{1: 2}", "!!python/x y"],
)
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(ManifestError):
        read_manifest(text, "file")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        3,
        1 << 70,
        1.5,
        "",
        "x",
        "X/..",
        "\ud800",
        [],
        [None],
        [{}],
        {},
        {"name": None},
        [["x"]],
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_document_does_more_than_be_refused(data: st.DataObject) -> None:
    """Whatever stands anywhere in a document: pods, or an error that is meant for the user."""
    documents: Any = [copy.deepcopy(one) for one in (CONFIG, SECRET, POD, DEPLOYMENT)]
    for _ in range(data.draw(st.integers(1, 3))):
        *front, last = data.draw(st.sampled_from(places(documents)[1:]))
        holder = documents
        for key in front:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = copy.deepcopy(data.draw(VALUES))  # one that is shared could come to hold itself
        elif isinstance(holder, dict):
            del holder[last]
    try:
        manifest = read(*documents)
    except ManifestError:
        return
    assert manifest.pods
