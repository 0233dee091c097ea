import copy

import msgspec
import pytest

from podling.api import schema as sch

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"app": "x"}},
    "spec": {
        "containers": [
            {
                "name": "c",
                "image": "busybox",
                "ports": [{"containerPort": 80}],
                "resources": {"requests": {"cpu": "100m"}},
            }
        ]
    },
}


def decode(obj, kind="Pod", api_version="v1"):
    schema = sch.schema()
    ref = schema.ref(api_version, kind)
    assert ref is not None
    return [str(w) for w in schema.decode_strict(ref, obj)]


def test_a_good_object_is_left_alone():
    obj = copy.deepcopy(POD)
    assert decode(obj) == []
    assert obj == POD


def test_unknown_fields_are_named_by_path_and_dropped():
    obj = copy.deepcopy(POD)
    obj["spec"]["containerz"] = []
    obj["spec"]["containers"][0]["imagee"] = "x"
    obj["x"] = 1
    assert sorted(decode(obj)) == [
        'unknown field "spec.containers[0].imagee"',
        'unknown field "spec.containerz"',
        'unknown field "x"',
    ]
    assert obj == POD


def test_nulls_and_empty_optional_lists_and_maps_are_dropped():
    obj = copy.deepcopy(POD)
    obj["metadata"] |= {"annotations": {}, "creationTimestamp": None}
    obj["spec"] |= {"nodeName": None, "tolerations": [], "volumes": None}
    obj["spec"]["securityContext"] = {}
    assert decode(obj) == []
    assert obj["metadata"] == POD["metadata"]
    assert obj["spec"] == POD["spec"] | {"securityContext": {}}


def test_nulls_inside_lists_and_maps_become_zeros():
    obj = {"metadata": {"labels": {"a": None}}, "spec": {"containers": [None]}}
    decode(obj)
    assert obj == {"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{"name": ""}]}}


def test_required_scalars_are_always_written():
    obj = {"status": {"containerStatuses": [{"name": "c", "image": "i"}]}}
    decode(obj)
    status = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    assert obj["status"]["containerStatuses"] == [status]


def test_quantities_become_canonical():
    obj = {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}}
    decode(obj)
    assert obj["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}


def container(**fields):
    return {"spec": {"containers": [{"name": "c", **fields}]}}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (
            container(ports=[{"containerPort": "80"}]),
            "json: cannot unmarshal string into Go struct field "
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(command="sh"),
            "json: cannot unmarshal string into Go struct field Container.spec.containers.command "
            "of type []string",
        ),
        (
            container(env=[{"name": "A", "value": 1}]),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value "
            "of type string",
        ),
        (
            container(ports=[{"containerPort": 80.5}]),
            "json: cannot unmarshal number 80.5 into Go struct field "
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            container(ports=[{"containerPort": 2**31}]),
            "json: cannot unmarshal number 2147483648 into Go struct field "
            "ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            {"metadata": {"labels": {"a": True}}},
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            {"metadata": {"labels": ["a"]}},
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels "
            "of type map[string]string",
        ),
        (
            {"spec": []},
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            {"spec": {"restartPolicy": 1}},
            "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy "
            "of type v1.RestartPolicy",
        ),
        (
            {"spec": {"containers": ["x"]}},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
        ),
        (
            container(resources={"limits": {"cpu": "1x"}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (container(resources={"limits": {"cpu": "1kk"}}), "unable to parse quantity's suffix"),
        (
            {"metadata": {"creationTimestamp": "today"}},
            'parsing time "today" as "2006-01-02T15:04:05Z07:00": cannot parse "today" as "2006"',
        ),
        (
            container(livenessProbe={"httpGet": {"port": True}}),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
    ],
)
def test_wrong_types_in_gos_words(obj, message):
    with pytest.raises(sch.DecodeError) as raised:
        decode(obj)
    assert str(raised.value) == message


def test_secrets_hold_base64():
    decode({"data": {"a": "aGVsbG8=", "b": ""}}, "Secret")
    with pytest.raises(sch.DecodeError, match="illegal base64 data at input byte 5"):
        decode({"data": {"a": "hello world"}}, "Secret")
    with pytest.raises(sch.DecodeError, match="illegal base64 data at input byte 4"):
        decode({"data": {"a": "aGVsbG8"}}, "Secret")


def test_kinds_outside_the_table_have_no_definition():
    assert sch.schema().ref("apps/v1", "Nothing") is None
    assert sch.schema().ref("coordination.k8s.io/v1", "Lease") == "io.k8s.api.coordination.v1.Lease"


def test_fields_given_twice_are_named():
    body = b'{"kind":"Pod","spec":{"containers":[{"name":"a","name":"b","name":"c"}]},"kind":"Pod"}'
    obj, warnings = sch.decode_json(body)
    assert obj == {"kind": "Pod", "spec": {"containers": [{"name": "c"}]}}
    assert sch.strict_error(warnings) == (
        'strict decoding error: duplicate field "kind", duplicate field "spec.containers[0].name"'
    )


@pytest.mark.parametrize("body", [b"", b"{", b"{'a':1}", b"NaN", b'{"a":1}x', b"[" * 100_000, b'"\xff"'])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(msgspec.DecodeError):
        sch.decode_json(body)


def test_the_message_of_a_body_that_cannot_be_decoded():
    assert sch.cannot_be_handled("coordination.k8s.io/v1", "Lease", "json: x") == (
        'Lease in version "v1" cannot be handled as a Lease: json: x'
    )


def test_merge_keys_are_known():
    schema = sch.schema()
    spec = schema.type("io.k8s.api.core.v1.PodSpec")
    assert spec.fields["containers"].merge_key == "name"
    assert spec.fields["volumes"].strategies == ("merge", "retainKeys")
    ports = schema.type("io.k8s.api.core.v1.Container").fields["ports"]
    assert (ports.merge_key, ports.list_map_keys) == ("containerPort", ("containerPort", "protocol"))
