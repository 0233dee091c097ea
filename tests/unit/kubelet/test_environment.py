"""Environment variables, `$(VAR)` expansion and the downward API."""

from __future__ import annotations

import base64

import pytest

from podling.api import core_v1
from podling.kubelet.environment import ConfigError, ObjectKey, Sources, make_environment, referenced_objects
from podling.kubelet.expansion import expand, missing_names
from podling.kubelet.field_paths import FieldPathError, PodFacts, field_value, format_map, resource_value

from .builders import container, make_pod

FACTS = PodFacts(host_ip="10.192.0.3", pod_ips=["10.244.1.5", "fd00::5"], allocatable={"cpu": "2"})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$(", "$("),
        ("$$", "$"),
        ("", ""),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def test_missing_names_are_found() -> None:
    assert missing_names("$(A)/$(B)/$$(C)", {"A": "1"}) == ["B"]


def environment(fields, sources=None, **spec):
    pod = make_pod(container(**fields), **spec)
    return make_environment(pod, pod.spec.containers[0], sources=sources or Sources(), facts=FACTS)


def test_later_variables_see_earlier_ones_only() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"}]
    assert environment({"env": env}) == {"A": "1", "B": "1$(C)", "C": "3"}


def test_env_wins_over_env_from_and_prefixes_apply() -> None:
    sources = Sources(
        config_maps={"cm": core_v1.ConfigMap(data={"A": "cm", "B": "cm"})},
        secrets={"s": core_v1.Secret(data={"B": base64.b64encode(b"secret").decode()})},
    )
    fields = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
        "env": [{"name": "P_A", "value": "own"}],
    }
    assert environment(fields, sources) == {"P_A": "own", "P_B": "cm", "B": "secret"}


def test_references_are_collected() -> None:
    pod = make_pod(
        container(
            envFrom=[{"configMapRef": {"name": "a"}}],
            env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}],
        )
    )
    wanted = {ObjectKey("ConfigMap", "a"), ObjectKey("Secret", "b")}
    assert referenced_objects(pod.spec.containers[0]) == wanted


@pytest.mark.parametrize(
    ("reference", "sources", "message"),
    [
        ({"configMapKeyRef": {"name": "x", "key": "k"}}, Sources(), 'configmap "x" not found'),
        ({"secretKeyRef": {"name": "x", "key": "k"}}, Sources(), 'secret "x" not found'),
        (
            {"configMapKeyRef": {"name": "x", "key": "k"}},
            Sources(config_maps={"x": core_v1.ConfigMap(data={"other": ""})}),
            "couldn't find key k in ConfigMap default/x",
        ),
        (
            {"secretKeyRef": {"name": "x", "key": "k"}},
            Sources(secrets={"x": core_v1.Secret()}),
            "couldn't find key k in Secret default/x",
        ),
    ],
)
def test_what_is_missing_is_named_unless_it_is_optional(reference, sources, message) -> None:
    with pytest.raises(ConfigError) as caught:
        environment({"env": [{"name": "X", "valueFrom": reference}]}, sources)
    assert str(caught.value) == message
    (source,) = reference.values()
    optional = {next(iter(reference)): {**source, "optional": True}}
    assert environment({"env": [{"name": "X", "valueFrom": optional}]}, sources) == {}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "default"),
        ("metadata.labels['app']", "shop"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-1"),
        ("status.hostIP", "10.192.0.3"),
        ("status.podIP", "10.244.1.5"),
        ("status.podIPs", "10.244.1.5,fd00::5"),
    ],
)
def test_field_references(path: str, value: str) -> None:
    pod = make_pod(metadata={"labels": {"app": "shop"}})
    assert field_value(pod, path, FACTS) == value


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(FieldPathError, match=r"unsupported fieldPath: status.nonsense"):
        field_value(make_pod(), "status.nonsense", FACTS)


def test_maps_are_quoted_and_sorted() -> None:
    assert format_map({"b": 'say "hi"', "a": "1"}) == 'a="1"\nb="say \\"hi\\""'


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", None, "1"),
        ("limits.cpu", "1m", "500"),
        ("requests.memory", "1Mi", "64"),
        ("requests.memory", None, "67108864"),
        ("limits.memory", None, "0"),
    ],
)
def test_resource_references_are_divided_and_rounded_up(resource, divisor, value) -> None:
    pod = make_pod(container(resources={"limits": {"cpu": "500m"}, "requests": {"memory": "64Mi"}}))
    selector = core_v1.ResourceFieldSelector(resource=resource, divisor=divisor)
    assert resource_value(pod, selector, FACTS, own=pod.spec.containers[0]) == value


def test_a_missing_limit_is_what_the_node_has() -> None:
    pod = make_pod()
    selector = core_v1.ResourceFieldSelector(resource="limits.cpu", container_name="main")
    assert resource_value(pod, selector, FACTS) == "2"


def test_binary_data_is_for_files_only() -> None:
    """A value with a zero byte cannot be a variable; upstream offers a config map's `data` alone."""
    config_map = core_v1.ConfigMap(data={"a": "1"}, binary_data={"raw": base64.b64encode(b"\0").decode()})
    sources = Sources(config_maps={"cm": config_map})
    pod = make_pod(container(envFrom=[{"configMapRef": {"name": "cm"}}]))
    assert make_environment(pod, pod.spec.containers[0], sources=sources, facts=FACTS) == {"a": "1"}
    ref = {"configMapKeyRef": {"name": "cm", "key": "raw"}}
    pod = make_pod(container(env=[{"name": "RAW", "valueFrom": ref}]))
    with pytest.raises(ConfigError, match="couldn't find key raw in ConfigMap default/cm"):
        make_environment(pod, pod.spec.containers[0], sources=sources, facts=FACTS)
