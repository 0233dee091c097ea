"""What a field of the API is: the compiled form of Kubernetes' OpenAPI definitions.

`compile_types` turns the definitions into Types and Fields, which hold only what decoding
(`podling.api.decoding`) and patching (`podling.api.patch`) ask for. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

_PREFIX: Final = "#/definitions/"


class Is(IntEnum):
    """What a value is. The order is that of how often they occur."""

    STRING = 0
    INT = 1
    BOOL = 2
    STRUCT = 3
    LIST = 4
    MAP = 5
    QUANTITY = 6
    TIME = 7
    INT_OR_STRING = 8
    BYTES = 9
    NUMBER = 10
    ANY = 11


_SPECIAL: Final = {
    "Quantity": Is.QUANTITY,
    "Time": Is.TIME,
    "MicroTime": Is.TIME,
    "IntOrString": Is.INT_OR_STRING,
    "FieldsV1": Is.ANY,
    "RawExtension": Is.ANY,
    "Patch": Is.ANY,
}
ZERO: Final[dict[Is, Any]] = {Is.STRING: "", Is.INT: 0, Is.BOOL: False}
PYTHON: Final[dict[Is, type]] = {Is.STRING: str, Is.INT: int, Is.BOOL: bool}
_INT_LIMIT: Final = {"int32": 2**31, "int64": 2**63}
# Strings that are a type of their own in Go, which its decoder names when it is given something else.
_GO_NAMES: Final = {
    "PodSpec.restartPolicy": "v1.RestartPolicy",
    "PodSpec.dnsPolicy": "v1.DNSPolicy",
    "PodSpec.preemptionPolicy": "v1.PreemptionPolicy",
    "Container.imagePullPolicy": "v1.PullPolicy",
    "Container.terminationMessagePolicy": "v1.TerminationMessagePolicy",
    "Container.restartPolicy": "v1.ContainerRestartPolicy",
    "ContainerPort.protocol": "v1.Protocol",
    "ServicePort.protocol": "v1.Protocol",
    "ServiceSpec.type": "v1.ServiceType",
    "ServiceSpec.sessionAffinity": "v1.ServiceAffinity",
    "Secret.type": "v1.SecretType",
    "Toleration.operator": "v1.TolerationOperator",
    "Toleration.effect": "v1.TaintEffect",
    "Taint.effect": "v1.TaintEffect",
    "EmptyDirVolumeSource.medium": "v1.StorageMedium",
    "HostPathVolumeSource.type": "v1.HostPathType",
    "PodStatus.phase": "v1.PodPhase",
    "ObjectMeta.uid": "types.UID",
    "OwnerReference.uid": "types.UID",
    "ResourceRequirements.limits": "v1.ResourceList",
    "ResourceRequirements.requests": "v1.ResourceList",
}


@dataclass(slots=True, eq=False)
class Field:
    """One field of a type, or what a list or map holds."""

    kind: Is
    go_type: str
    required: bool = False
    item: Field | None = None
    """What a list or map holds."""
    type: Type | None = None
    """Of a struct."""
    limit: int = 0
    """Integers lie in [-limit, limit)."""
    merge_key: str = ""
    """Which field tells elements of a list apart in a strategic merge patch; empty for scalars."""
    strategies: tuple[str, ...] = ()
    """Of a strategic merge patch: merge, replace, retainKeys."""
    list_type: str = ""
    """atomic, set or map, as server-side apply sees the list."""
    list_map_keys: tuple[str, ...] = ()

    def element_type(self) -> Type | None:
        """Return the struct that the field is, or that its elements are; None for anything else."""
        inner = self
        while inner.item is not None:
            inner = inner.item
        return inner.type


@dataclass(slots=True, eq=False)
class Type:
    """A struct of the API."""

    ref: str
    name: str
    fields: dict[str, Field] = field(default_factory=dict)
    zeros: tuple[tuple[str, Any], ...] = ()
    """Required scalars, which Go always writes."""


def compile_types(definitions: Mapping[str, Any]) -> dict[str, Type]:
    """Return every definition as a Type, by the definition's name."""
    return _Compiler(definitions).types


class _Compiler:
    """One run over the definitions; each is compiled when first referred to."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self.types: dict[str, Type] = {}
        self._definitions = definitions
        for ref in definitions:
            self._type(ref)

    def _type(self, ref: str) -> Type:
        found = self.types.get(ref)
        if found is not None:
            return found
        definition = self._definitions[ref]
        result = self.types[ref] = Type(ref=ref, name=ref.rpartition(".")[2])
        required = definition.get("required", ())
        for name, schema in definition.get("properties", {}).items():
            compiled = self._field(schema, go_name=_GO_NAMES.get(f"{result.name}.{name}"))
            compiled.required = name in required
            result.fields[name] = compiled
        result.zeros = tuple(
            (name, ZERO[f.kind]) for name, f in result.fields.items() if f.required and f.kind in ZERO
        )
        return result

    def _field(self, schema: Mapping[str, Any], go_name: str | None = None) -> Field:
        if "$ref" in schema:
            compiled = self._reference(schema["$ref"].removeprefix(_PREFIX))
        elif schema["type"] == "array":
            item = self._field(schema["items"])
            compiled = Field(kind=Is.LIST, go_type=f"[]{item.go_type}", item=item)
        elif schema["type"] == "object" and "additionalProperties" in schema:
            item = self._field(schema["additionalProperties"])
            compiled = Field(kind=Is.MAP, go_type=f"map[string]{item.go_type}", item=item)
        else:
            compiled = _scalar(schema)
        compiled.go_type = go_name or compiled.go_type
        compiled.merge_key = schema.get("x-kubernetes-patch-merge-key", "")
        compiled.strategies = tuple(filter(None, schema.get("x-kubernetes-patch-strategy", "").split(",")))
        compiled.list_type = schema.get("x-kubernetes-list-type", "")
        compiled.list_map_keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
        return compiled

    def _reference(self, ref: str) -> Field:
        name = ref.rpartition(".")[2]
        if name in _SPECIAL:
            return Field(kind=_SPECIAL[name], go_type=name)
        return Field(kind=Is.STRUCT, go_type=f"v1.{name}", type=self._type(ref))


def _scalar(schema: Mapping[str, Any]) -> Field:
    match schema["type"], schema.get("format"):
        case "string", "byte":
            return Field(kind=Is.BYTES, go_type="[]uint8")
        case "string", _:
            return Field(kind=Is.STRING, go_type="string")
        case "integer", width:
            go_type = width or "int64"
            return Field(kind=Is.INT, go_type=go_type, limit=_INT_LIMIT[go_type])
        case "boolean", _:
            return Field(kind=Is.BOOL, go_type="bool")
        case "number", _:
            return Field(kind=Is.NUMBER, go_type="float64")
        case _:
            return Field(kind=Is.ANY, go_type="interface {}")
