"""What is wrong with a body, in Kubernetes' words."""

from __future__ import annotations

import pytest

from podling.apiserver import gojson
from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("{a", "invalid character 'a' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("{} x", "invalid character 'x' after top-level value"),
        ("nil", "invalid character 'i' in literal null (expecting 'u')"),
        ("truf", "invalid character 'f' in literal true (expecting 'e')"),
        ('"\\x"', "invalid character 'x' in string escape code"),
        ('"\\u12g"', "invalid character 'g' in \\u hexadecimal character escape"),
        ('"a\nb"', "invalid character '\\n' in string literal"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1e", "unexpected end of JSON input"),
        ("01", "invalid character '1' after top-level value"),
        ("'", "invalid character '\\'' looking for beginning of value"),
        ("[" * 10001, "exceeded max depth"),
    ],
)
def test_malformed_json_is_described_as_go_does(text, fault):
    assert gojson.describe(text.encode()) == fault


async def test_malformed_json_is_a_bad_request(api):
    status, answer = await api.post(PODS, b'{"kind":"Pod", oops}')
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert answer["message"] == (
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; "
        "json parse error: invalid character 'o' looking for beginning of object key string "
        '({"kind":"Pod", oops})'
    )
    _, answer = await api.post(PODS, b"\x00\x01")
    assert answer["message"].endswith("(0001)")


async def test_a_body_that_is_no_object_is_a_bad_request(api):
    status, answer = await api.post(PODS, b"[]")
    assert status == 400
    assert "json: cannot unmarshal array into Go value" in answer["message"]


async def test_an_unknown_content_type_is_refused(api):
    status, answer = await api.post(PODS, b"<pod/>", content_type="text/xml")
    assert (status, answer["reason"]) == (415, "UnsupportedMediaType")
    assert answer["message"].startswith(
        "the body of the request was in an unknown format - accepted media types include: application/json"
    )


async def test_yaml_is_read(api):
    made = await api.created(
        CONFIG_MAPS,
        b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: 'b'\n",
        content_type="application/yaml",
    )
    assert made["data"] == {"a": "b"}
    status, answer = await api.post(CONFIG_MAPS, b"a: [", content_type="application/yaml")
    assert status == 400
    assert "error converting YAML to JSON: yaml:" in answer["message"]


async def test_another_kind_cannot_be_handled(api):
    status, answer = await api.post(CONFIG_MAPS, pod())
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert answer["message"].startswith('Pod in version "v1" cannot be handled as a ConfigMap')
    _, answer = await api.post(CONFIG_MAPS, {"kind": "Zebra", "apiVersion": "v1", "metadata": {}})
    assert answer["message"] == (
        'Zebra in version "v1" cannot be handled as a ConfigMap: no kind "Zebra" is registered '
        'for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30"'
    )


async def test_another_version_does_not_match(api):
    lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "x"}}
    _, answer = await api.post(CONFIG_MAPS, lease)
    assert answer["message"] == (
        "the API version in the data (coordination.k8s.io/v1) does not match the expected API version (v1)"
    )


async def test_unknown_and_duplicate_fields_are_errors_when_strict(api):
    body = b'{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","name":"d","image":"i","foo":1}]}}'
    status, answer = await api.post(PODS, body, fieldValidation="Strict")
    assert status == 400
    assert answer["message"] == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
        'duplicate field "spec.containers[0].name", unknown field "spec.containers[0].foo"'
    )


async def test_unknown_fields_are_warnings_by_default_and_nothing_when_ignored(api):
    body = config_map() | {"colour": "red"}
    made = await api.created(CONFIG_MAPS, body)
    assert api.warnings == '299 - "unknown field \\"colour\\""'
    assert "colour" not in made
    body["metadata"]["name"] = "other"
    await api.created(CONFIG_MAPS, body, fieldValidation="Ignore")
    assert api.warnings == ""
    status, _ = await api.post(CONFIG_MAPS, body, fieldValidation="Perhaps")
    assert status == 400


async def test_warnings_are_safe_in_a_header(api):
    body = config_map() | {"a\r\nX-Evil: 1": 1, 'quo"te': 2, "ü": 3}
    await api.created(CONFIG_MAPS, body)
    assert api.warnings == (
        '299 - "unknown field \\"a??X-Evil: 1\\"", 299 - "unknown field \\"quo\\"te\\"", '
        '299 - "unknown field \\"ü\\""'
    )
    body = config_map("many") | {f"f{i:>0200}": 1 for i in range(90)}
    await api.created(CONFIG_MAPS, body)
    assert len(api.warnings) < 6000


async def test_a_wrong_type_is_always_an_error(api):
    body = pod() | {"spec": {"containers": "many"}}
    status, answer = await api.post(PODS, body, fieldValidation="Ignore")
    assert status == 400
    assert answer["message"] == (
        'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into '
        "Go struct field PodSpec.spec.containers of type []v1.Container"
    )


async def test_nulls_are_absent(api):
    body = config_map(a="b")
    body["metadata"] |= {"creationTimestamp": None, "labels": None}
    made = await api.created(CONFIG_MAPS, body)
    assert "labels" not in made["metadata"]
