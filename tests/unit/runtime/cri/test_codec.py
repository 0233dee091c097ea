"""Our protobuf against Google's, for every message of the CRI."""

from __future__ import annotations

import inspect
import random
from typing import Any

import msgspec
import pytest

from podling.runtime.cri import messages as cri
from podling.runtime.cri.codec import CodecError, decode, encode
from podling.runtime.cri.methods import IMAGE_METHODS, RUNTIME_METHODS
from podling.runtime.cri.wire import Field, fields_of
from unit.runtime.cri.proto_local import google_classes, rpcs

CLASSES = [
    kind
    for _, kind in inspect.getmembers(cri, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]
NUMBERS = {
    "int32": [1, 127, 128, 2**31 - 1, -1, -(2**31)],
    "int64": [1, 300, 2**63 - 1, -1, -(2**63)],
    "uint32": [1, 2**32 - 1],
    "uint64": [1, 2**63, 2**64 - 1],
}


def test_the_methods_are_those_of_the_standard() -> None:
    ours = {
        m.path: (m.request_type.__name__, m.response_type.__name__, m.streams)
        for m in (*RUNTIME_METHODS, *IMAGE_METHODS)
    }
    assert ours == rpcs()


def test_no_message_of_linux_is_missing() -> None:
    """What Windows alone uses is skipped; wrappers are numbers here."""
    wrappers = {"Int64Value", "UInt64Value"}
    standard = {name for name in google_classes() if not name.startswith("Windows")} - wrappers
    assert {kind.__name__ for kind in CLASSES} == standard


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_fields_are_those_of_the_standard(kind: type[msgspec.Struct]) -> None:
    standard = google_classes()[kind.__name__].DESCRIPTOR.fields
    theirs = {_plain(field.name): field.number for field in standard if "indows" not in _type_name(field)}
    assert {_plain(field.name): field.number for field in fields_of(kind)} == theirs


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_google_reads_what_we_write_and_we_what_google_writes(kind: type[msgspec.Struct]) -> None:
    for seed in range(8):
        message = arbitrary(kind, random.Random(f"{kind.__name__} {seed}"))
        theirs = google_classes()[kind.__name__].FromString(encode(message))
        assert_same(message, theirs)
        assert decode(kind, theirs.SerializeToString()) == message


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_cut_or_damaged_bytes_are_an_error_or_a_message(kind: type[msgspec.Struct]) -> None:
    rng = random.Random(kind.__name__)
    whole = bytearray(encode(arbitrary(kind, rng)))
    for _ in range(60):
        damaged = whole[: rng.randrange(len(whole) + 1)]
        for _ in range(min(len(damaged), rng.randrange(3))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            decode(kind, bytes(damaged))
        except CodecError:
            continue


def test_defaults_are_left_out_but_a_wrapped_zero_and_an_empty_message_are_not() -> None:
    context = cri.LinuxContainerSecurityContext(run_as_user=0, capabilities=cri.Capability())
    assert encode(context) == bytes.fromhex("0a00 2a00")
    assert decode(cri.LinuxContainerSecurityContext, encode(context)) == context
    assert encode(cri.LinuxContainerSecurityContext()) == b""


def test_repeated_numbers_are_read_packed_and_one_by_one() -> None:
    packed, single, both = bytes.fromhex("1a03 01ac02"), bytes.fromhex("1801 18ac02"), [1, 300, 1, 300]
    for data, expected in ((packed, [1, 300]), (single, [1, 300]), (packed + single, both)):
        assert decode(cri.LinuxContainerUser, data).supplemental_groups == expected
    assert encode(cri.LinuxContainerUser(supplemental_groups=[1, 300])) == packed


def test_a_message_that_comes_twice_is_merged() -> None:
    first = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="web"), args=["a"])
    second = cri.ContainerConfig(metadata=cri.ContainerMetadata(attempt=3), args=["b"])
    merged = decode(cri.ContainerConfig, encode(first) + encode(second))
    assert merged.metadata == cri.ContainerMetadata(name="web", attempt=3)
    assert merged.args == ["a", "b"]


@pytest.mark.parametrize(
    "unknown",
    ["f83f 96 01", "fa3f 03 616263", "f93f 0102030405060708", "fd3f 01020304", "fb3f 0801 0b0c fc3f"],
    ids=["varint", "bytes", "fixed64", "fixed32", "group in a group"],
)
def test_unknown_fields_are_skipped(unknown: str) -> None:
    known = encode(cri.ContainerMetadata(name="web", attempt=2))
    assert decode(cri.ContainerMetadata, bytes.fromhex(unknown) + known) == cri.ContainerMetadata(
        name="web", attempt=2
    )


def test_a_known_number_with_another_wire_type_is_unknown() -> None:
    assert decode(cri.ContainerMetadata, bytes.fromhex("0801")) == cri.ContainerMetadata()


def test_an_unknown_enum_value_stays_a_number() -> None:
    assert decode(cri.PortMapping, bytes.fromhex("0863")).protocol == 99
    assert encode(decode(cri.PortMapping, bytes.fromhex("0863"))) == bytes.fromhex("0863")


def test_a_map_entry_without_value_has_the_empty_one() -> None:
    data = bytes.fromhex("3203 0a0161")
    assert decode(cri.PodSandboxConfig, data).labels == {"a": ""}


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        ("0a", "unexpected end"),
        ("0a05 61", "unexpected end"),
        ("0a02 c328", "UTF-8"),
        ("10 ffffffffffffffffffff7f", "ten bytes"),
        ("0001", "field number 0"),
        ("0c", "wire type 4"),
        ("0b", "unexpected end"),
        ("0f00", "wire type 7"),
        ("0b14", "wire type 4"),
        ("0b" * 200, "wire type 3"),
    ],
)
def test_refuses(data: str, finding: str) -> None:
    with pytest.raises(CodecError, match=finding):
        decode(cri.ContainerMetadata, bytes.fromhex(data))


@pytest.mark.parametrize(
    ("message", "finding"),
    [
        (cri.ContainerMetadata(attempt=-1), "ContainerMetadata.attempt: -1 does not fit uint32"),
        (cri.PortMapping(host_port=2**31), "PortMapping.host_port: 2147483648 does not fit int32"),
        (cri.ContainerMetadata(name="\udcff"), "ContainerMetadata.name: .*surrogates"),
        (cri.ExecSyncResponse(stdout="text"), "ExecSyncResponse.stdout"),
        (cri.ContainerConfig(metadata=cri.ContainerMetadata(attempt="x")), "ContainerMetadata.attempt"),
    ],
)
def test_refuses_to_write(message: msgspec.Struct, finding: str) -> None:
    with pytest.raises(CodecError, match=finding):
        encode(message)


def arbitrary(kind: type[msgspec.Struct], rng: random.Random) -> Any:
    message = kind()
    for field in fields_of(kind):
        if rng.random() < 0.75:
            setattr(message, field.name, _value(field, rng))
    return message


def _value(field: Field, rng: random.Random) -> Any:
    if field.key:
        return {_one("string", str, rng): _one(field.wire, field.kind, rng) for _ in range(rng.randrange(4))}
    if field.wrapped:
        return rng.choice([0, *NUMBERS[field.wire]])
    if field.repeated:
        return [_one(field.wire, field.kind, rng) for _ in range(rng.randrange(4))]
    return _one(field.wire, field.kind, rng)


def _one(wire: str, kind: Any, rng: random.Random) -> Any:
    if wire == "message":
        return arbitrary(kind, rng)
    if wire == "enum":
        return rng.choice(list(kind))
    choices: dict[str, list[Any]] = {
        "string": ["", "a", "größer", "x" * 300, "🐧"],
        "bytes": [b"", b"\0\xff", b"y" * 200],
        "bool": [False, True],
        "double": [0.0, -0.0, 1.5, -2e300, float("inf")],
    }
    return rng.choice(choices[wire] if wire in choices else [0, *NUMBERS[wire]])


def assert_same(ours: Any, theirs: Any) -> None:
    for field in fields_of(type(ours)):
        value = getattr(ours, field.name)
        name = theirs.DESCRIPTOR.fields_by_number[field.number].name
        found = getattr(theirs, name)
        if field.wrapped or (field.wire == "message" and not field.repeated):
            assert theirs.HasField(name) == (value is not None)
            if value is None:
                continue
        if field.wrapped:
            assert found.value == value
        elif field.key:
            assert dict(found) == value
        elif field.wire != "message":
            assert (list(found) if field.repeated else found) == value
        elif field.repeated:
            assert len(found) == len(value)
            for one, other in zip(value, found, strict=True):
                assert_same(one, other)
        else:
            assert_same(value, found)


def _type_name(field: Any) -> str:
    return field.message_type.name if field.message_type is not None else ""


def _plain(name: str) -> str:
    """The standard writes CDI_devices and uidMappings; Python does not."""
    return name.replace("_", "").lower()
