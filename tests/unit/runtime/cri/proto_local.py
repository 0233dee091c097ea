"""Google's own protobuf runtime for `api.proto`, whose text is read here: names, numbers and types."""

from __future__ import annotations

import importlib.resources
import re
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES,
    "bool": Field.TYPE_BOOL,
    "double": Field.TYPE_DOUBLE,
    "int32": Field.TYPE_INT32,
    "int64": Field.TYPE_INT64,
    "uint32": Field.TYPE_UINT32,
    "uint64": Field.TYPE_UINT64,
}


def proto_text() -> str:
    text = (importlib.resources.files("podling.runtime.cri") / "api.proto").read_text()
    return re.sub(r"//.*", "", text)


def rpcs() -> dict[str, tuple[str, str, bool]]:
    """path -> request, response, whether the response is a stream."""
    found, service = {}, ""
    for line in proto_text().splitlines():
        if match := re.match(r"service (\w+) {", line):
            service = match[1]
        elif match := re.match(r"\s+rpc (\w+)\((\w+)\) returns \((stream )?(\w+)\);", line):
            found[f"/runtime.v1.{service}/{match[1]}"] = match[2], match[4], bool(match[3])
    return found


@cache
def google_classes() -> dict[str, type[Any]]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"runtime.v1.{name}"))
        for name in re.findall(r"^message (\w+)", proto_text(), re.M)
    }


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="runtime.v1", syntax="proto3")
    enums = {name.rpartition(".")[2] for name in re.findall(r"enum (\w+) {", proto_text())}
    for name, body in re.findall(r"^enum (\w+) {\n(.*?)^}", proto_text(), re.M | re.S):
        _enum(file.enum_type.add(name=name), body)
    for name, body in re.findall(r"^message (\w+) {(?:}|\n(.*?)^})", proto_text(), re.M | re.S):
        message = file.message_type.add(name=name)
        nested = re.compile(r"^    enum (\w+) {\n(.*?)^    }\n", re.M | re.S)
        for inner, values in nested.findall(body):
            _enum(message.enum_type.add(name=inner), values)
        for line in nested.sub("", body).splitlines():
            if line.strip():
                _field(message, line, enums)
    return file


def _enum(enum: descriptor_pb2.EnumDescriptorProto, body: str) -> None:
    for value, number in re.findall(r"(\w+) = (\d+);", body):
        enum.value.add(name=value, number=int(number))


def _field(message: descriptor_pb2.DescriptorProto, line: str, enums: set[str]) -> None:
    match = re.fullmatch(r"\s+(repeated )?(map<(\w+), (\w+)>|[\w.]+) (\w+) = (\d+);", line)
    assert match, line
    repeated, kind, key, value, name, number = match.groups()
    field = message.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    if repeated or key:
        field.label = Field.LABEL_REPEATED
    if not key:
        _set_type(message, field, kind, enums)
        return
    entry = message.nested_type.add(name="".join(w.capitalize() for w in name.split("_")) + "Entry")
    entry.options.map_entry = True
    _set_type(entry, entry.field.add(name="key", number=1, label=Field.LABEL_OPTIONAL), key, enums)
    _set_type(entry, entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL), value, enums)
    field.type, field.type_name = Field.TYPE_MESSAGE, f".runtime.v1.{message.name}.{entry.name}"


def _set_type(
    message: descriptor_pb2.DescriptorProto,
    field: descriptor_pb2.FieldDescriptorProto,
    kind: str,
    enums: set[str],
) -> None:
    if kind in SCALARS:
        field.type = SCALARS[kind]
        return
    field.type = Field.TYPE_ENUM if kind in enums else Field.TYPE_MESSAGE
    nested = any(enum.name == kind for enum in message.enum_type)
    field.type_name = f".runtime.v1.{message.name}.{kind}" if nested else f".runtime.v1.{kind}"
