"""Kubernetes' protobuf, read into what encoding/json would have written."""

from __future__ import annotations

import struct
from base64 import b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.api.protobuf import ProtobufError, decode_object
from podling.api.schema import schema


def varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: object) -> bytes:
    """One field as Go's encoder writes it: text, bytes, a message (bytes), a number or a flag."""
    if isinstance(value, int):
        return varint(number << 3) + varint(int(value))
    data = value.encode() if isinstance(value, str) else value
    assert isinstance(data, bytes)
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(**fields: object) -> bytes:
    """Fields by `_NUMBER`; a list repeats its field."""
    out = b""
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            out += field(int(name[1:]), item)
    return out


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + message(_1=message(_1=api_version, _2=kind), _2=raw, _3="", _4="")


def entry(key: str, value: object) -> bytes:
    return message(_1=key, _2=value)


METADATA = message(
    _1="web",
    _2="",
    _3="default",
    _4="",
    _5="",
    _6="",
    _7=0,
    _8=b"",
    _11=[entry("a", "b"), entry("empty", "")],
)


def test_a_pod_reads_as_its_json():
    container = message(
        _1="c",
        _2="nginx",
        _3=["sh", "-c"],
        _5="",
        _6=[message(_1="http", _2=0, _3=80, _4="TCP", _5="")],
        _7=[
            message(_1="PLAIN", _2="x"),
            message(_1="FROM", _2="", _3=message(_4=message(_1=message(_1="s"), _2="key", _3=False))),
        ],
        _8=message(_1=[entry("memory", message(_1="64Mi"))]),
        _10=message(_1=message(_2=message(_1="/", _2=message(_1=1, _2=0, _3="http"))), _2=0, _3=1),
        _13="",
        _15=message(_4=0, _5=False),
        _16=False,
    )
    volume = message(_1="data", _2=message(_2=message(_1="")))
    spec = message(_1=[volume], _2=[container], _3="Always", _4=0, _7=[entry("disk", "ssd")], _11=False)
    pod = message(_1=METADATA, _2=spec, _3=message(_1=""))
    assert decode_object(envelope("v1", "Pod", pod), "v1", "Pod") == {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "default", "labels": {"a": "b", "empty": ""}},
        "spec": {
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [
                {
                    "name": "c",
                    "image": "nginx",
                    "command": ["sh", "-c"],
                    "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                    "env": [
                        {"name": "PLAIN", "value": "x"},
                        {
                            "name": "FROM",
                            "valueFrom": {"secretKeyRef": {"name": "s", "key": "key", "optional": False}},
                        },
                    ],
                    "resources": {"limits": {"memory": "64Mi"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 1},
                    # Pointers in Go: zero and false were said on purpose.
                    "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"disk": "ssd"},
        },
        "status": {},
    }


def test_what_it_reads_fits_the_schema():
    pod = message(_1=METADATA, _2=message(_2=[message(_1="c", _2="i", _8=b"")]), _3=b"")
    obj = decode_object(envelope("v1", "Pod", pod), "v1", "Pod")
    ref = schema().ref("v1", "Pod")
    assert ref is not None
    assert schema().decode_strict(ref, obj) == []


def test_secrets_are_bytes():
    raw = message(_1=METADATA, _2=[entry("k", b"\x00\xff"), entry("none", b"")], _3="Opaque")
    obj = decode_object(envelope("v1", "Secret", raw), "v1", "Secret")
    assert obj["data"] == {"k": b64encode(b"\x00\xff").decode(), "none": ""}


def test_times_have_seconds_or_micros():
    spec = message(_1="me", _2=40, _4=message(_1=1_700_000_000, _2=123_456_000))
    metadata = message(_1="l", _8=message(_1=1_700_000_000, _2=0))
    raw = message(_1=metadata, _2=spec)
    obj = decode_object(envelope("coordination.k8s.io/v1", "Lease", raw), "", "")
    assert obj["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert obj["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 40,
        "renewTime": "2023-11-14T22:13:20.123456Z",
    }


def test_numbers_may_be_negative():
    raw = message(_1=message(_1="p"), _2=message(_5=-1))
    obj = decode_object(envelope("v1", "Pod", raw), "v1", "Pod")
    assert obj["spec"]["activeDeadlineSeconds"] == -1


def test_the_kind_may_be_left_to_the_request():
    obj = decode_object(b"k8s\0" + message(_2=message(_1=METADATA)), "v1", "ConfigMap")
    assert (obj["kind"], obj["apiVersion"], obj["metadata"]["name"]) == ("ConfigMap", "v1", "web")


def test_options_belong_to_every_group():
    raw = message(_1=0, _2=message(_1="uid"))
    obj = decode_object(envelope("apps/v1", "DeleteOptions", raw), "", "")
    assert obj["gracePeriodSeconds"] == 0
    assert obj["preconditions"] == {"uid": "uid"}


def test_fields_of_a_newer_version_are_skipped():
    raw = message(_1=METADATA, _999="new", _998=7) + varint(997 << 3 | 1) + struct.pack("<d", 1.5)
    assert "metadata" in decode_object(envelope("v1", "ConfigMap", raw), "v1", "ConfigMap")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"{}", "does not appear to be a protobuf message"),
        (envelope("v1", "Zebra", b""), 'no kind "Zebra" is registered for version "v1"'),
        (envelope("v1", "Pod", b"\x0a\xff"), "malformed"),
        (envelope("v1", "Pod", b"\x0a\x05ab"), "unexpected EOF"),
        (envelope("v1", "Pod", b"\x0b"), "illegal wireType 3"),
        (envelope("v1", "Pod", message(_1=5)), "wrong wireType"),
        (envelope("v1", "Pod", message(_1=message(_1=b"\xff"))), "malformed"),
        (envelope("v1", "Pod", b"\xff" * 12), "integer overflow"),
        (b"k8s\0" + message(_2=b"", _3="gzip"), "unsupported content encoding"),
    ],
)
def test_what_is_no_message_is_refused(data, fault):
    with pytest.raises(ProtobufError, match=fault):
        decode_object(data, "v1", "Pod")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data):
    with suppress(ProtobufError):
        assert decode_object(envelope("v1", "Pod", data), "v1", "Pod")["kind"] == "Pod"
