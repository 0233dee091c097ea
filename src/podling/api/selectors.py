"""Label, field and node selectors: reading them and asking whether an object matches.

The text forms are those of the `labelSelector` and `fieldSelector` query parameters; the structured
forms are `LabelSelector` and `NodeSelector` of the API. Matching is pure; parsing raises
SelectorError with Kubernetes' own message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from podling.api import names
from podling.api.core_v1 import Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from podling.api.meta_v1 import LabelSelector

_OPERATORS: Final = "in, notin, =, ==, !=, gt, lt"
_TOKEN: Final = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+|$)")
_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)


class SelectorError(ValueError):
    """A selector that cannot be read."""


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: str
    """One of in, notin, exists, !, gt, lt; equality is `in` with one value."""
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
            case _:
                return _compare(self.operator, value, self.values)


def _compare(operator: str, value: str | None, limits: Sequence[str] | frozenset[str]) -> bool:
    limit = next(iter(limits), "")
    if value is None or not _WHOLE_NUMBER.fullmatch(value) or not _WHOLE_NUMBER.fullmatch(limit):
        return False
    return int(value) > int(limit) if operator == "gt" else int(value) < int(limit)


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; none of them matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return all(r.matches(labels or {}) for r in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements


def parse_label_selector(text: str | None) -> Selector:
    """Read `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`; empty text selects everything."""
    if not text or not text.strip():
        return Selector()
    try:
        return Selector(tuple(_Parser(text).parse()))
    except SelectorError as err:
        raise SelectorError(f"unable to parse requirement: {err}") from None


class _Parser:
    """One pass over the tokens of a label selector, as upstream's own parser words its errors."""

    def __init__(self, text: str) -> None:
        self._tokens = [m[1] for m in _TOKEN.finditer(text)]
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def parse(self) -> list[Requirement]:
        found = []
        while True:
            token = self._peek()
            if token != "!" and not _is_word(token):
                raise SelectorError(f"found '{token}', expected: !, identifier, or 'end of string'")
            found.append(self._requirement())
            token = self._next()
            if not token:
                return found
            if token != ",":
                raise SelectorError(f"found '{token}', expected: ',' or 'end of string'")
            if self._peek() != "!" and not _is_word(self._peek()):
                raise SelectorError(f"found '{self._peek()}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        negated = self._peek() == "!"
        if negated:
            self._next()
        key = self._next()
        if not _is_word(key):
            raise SelectorError(f"found '{key}', expected: identifier")
        _check("key", key, names.check_qualified_name(key))
        if negated:
            return Requirement(key, "!")
        if self._peek() in ("", ","):
            return Requirement(key, "exists")
        operator = self._next()
        match operator:
            case "=" | "==" | "!=":
                value = self._next() if _is_word(self._peek()) else ""
                _check(f"values[0][{key}]", value, names.check_label_value(value))
                return Requirement(key, "notin" if operator == "!=" else "in", frozenset([value]))
            case "in" | "notin":
                return Requirement(key, operator, self._values(key))
            case ">" | "<":
                value = self._next()
                if not _WHOLE_NUMBER.fullmatch(value):
                    raise SelectorError(
                        f'values[0]: Invalid value: "{value}": '
                        "for 'Gt', 'Lt' operators, the value must be an integer"
                    )
                return Requirement(key, "gt" if operator == ">" else "lt", frozenset([value]))
            case _:
                raise SelectorError(f"found '{operator}', expected: {_OPERATORS}")

    def _values(self, key: str) -> frozenset[str]:
        if (token := self._next()) != "(":
            raise SelectorError(f"found '{token}' expected: '('")
        values = []
        while True:
            # An empty place between commas is the empty value.
            values.append(self._next() if _is_word(self._peek()) else "")
            _check(f"values[{len(values) - 1}][{key}]", values[-1], names.check_label_value(values[-1]))
            token = self._next()
            if token == ")":
                return frozenset(values)
            if token != ",":
                raise SelectorError(f"found '{token}', expected: ',' or ')'")


def _is_word(token: str) -> bool:
    return bool(token) and token not in {"=", "==", "!=", "!", "<", ">", "(", ")", ","}


def _check(path: str, value: str, faults: list[str]) -> None:
    if faults:
        raise SelectorError(f'{path}: Invalid value: "{value}": {"; ".join(faults)}')


def format_label_selector(selector: Mapping[str, Any]) -> str:
    """Write a selector that is plain JSON as kubectl takes it: `app=web,tier in (back,front)`."""
    parts = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or ()))
        match expression.get("operator"):
            case "In":
                parts.append((key, f"{key} in ({values})"))
            case "NotIn":
                parts.append((key, f"{key} notin ({values})"))
            case "Exists":
                parts.append((key, key))
            case "DoesNotExist":
                parts.append((key, f"!{key}"))
    return ",".join(text for _, text in sorted(parts))


def match_label_selector(selector: LabelSelector | None, labels: Mapping[str, str] | None) -> bool:
    """Say whether `labels` match: no selector matches nothing, an empty one everything."""
    if selector is None:
        return False
    labels = labels or {}
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_match_expression(e, labels) for e in selector.match_expressions)


def _match_expression(expression: Any, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value is not None and value in expression.values
        case "NotIn":
            return value is None or value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compare(expression.operator.lower(), value, expression.values)
        case _:
            return False


def match_node_selector(selector: NodeSelector, node: Node) -> bool:
    """Say whether the node matches at least one term; a term without requirements matches no node."""
    return any(match_node_selector_term(term, node) for term in selector.node_selector_terms)


def match_node_selector_term(term: NodeSelectorTerm, node: Node) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name or ""}
    return all(_match_expression(e, node.metadata.labels) for e in term.match_expressions) and all(
        _match_node_field(e, fields) for e in term.match_fields
    )


def _match_node_field(requirement: NodeSelectorRequirement, fields: Mapping[str, str]) -> bool:
    return requirement.key in fields and _match_expression(requirement, fields)


# Field selectors


def _path(*keys: str) -> Callable[[dict[str, Any]], str]:
    def read(obj: dict[str, Any]) -> str:
        value: Any = obj
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return "true" if value else "false"
        return "" if value is None else str(value)

    return read


def _flag(*keys: str) -> Callable[[dict[str, Any]], str]:
    read = _path(*keys)
    return lambda obj: read(obj) or "false"


def _pod_ips(obj: dict[str, Any]) -> str:
    status = obj.get("status") or {}
    return status.get("podIP") or next((ip.get("ip", "") for ip in status.get("podIPs") or ()), "")


def _event_source(obj: dict[str, Any]) -> str:
    return _path("source", "component")(obj) or _path("reportingComponent")(obj)


_NAME: Final = {"metadata.name": _path("metadata", "name")}
_NAMESPACED: Final = {**_NAME, "metadata.namespace": _path("metadata", "namespace")}
_FIELDS: Final[dict[str, dict[str, Callable[[dict[str, Any]], str]]]] = {
    "Pod": {
        **_NAMESPACED,
        "spec.nodeName": _path("spec", "nodeName"),
        "spec.restartPolicy": _path("spec", "restartPolicy"),
        "spec.schedulerName": _path("spec", "schedulerName"),
        "spec.serviceAccountName": _path("spec", "serviceAccountName"),
        "spec.hostNetwork": _flag("spec", "hostNetwork"),
        "status.phase": _path("status", "phase"),
        "status.podIP": _path("status", "podIP"),
        "status.podIPs": _pod_ips,
        "status.nominatedNodeName": _path("status", "nominatedNodeName"),
    },
    "Node": {**_NAME, "spec.unschedulable": _flag("spec", "unschedulable")},
    "Namespace": {**_NAME, "status.phase": _path("status", "phase")},
    "Secret": {**_NAMESPACED, "type": _path("type")},
    "Service": {
        **_NAMESPACED,
        "spec.clusterIP": _path("spec", "clusterIP"),
        "spec.type": _path("spec", "type"),
    },
    "Event": {
        **_NAMESPACED,
        **{
            f"involvedObject.{key}": _path("involvedObject", key)
            for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": _path("reason"),
        "reportingComponent": _path("reportingComponent"),
        "source": _event_source,
        "type": _path("type"),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    path: str
    value: str
    negated: bool
    read: Callable[[dict[str, Any]], str]


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Conditions on single fields of the JSON object; none of them matches everything."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, obj: dict[str, Any]) -> bool:
        return all((r.read(obj) == r.value) is not r.negated for r in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements

    def exact(self, path: str) -> str | None:
        """Return the value a field must have, to look it up instead of searching; None when it may vary."""
        return next((r.value for r in self.requirements if r.path == path and not r.negated), None)


def parse_field_selector(text: str | None, kind: str) -> FieldSelector:
    """Read `metadata.name=a,status.phase!=Running` for the fields Kubernetes offers of `kind`."""
    if not text:
        return FieldSelector()
    known = _FIELDS.get(kind, _NAMESPACED)
    found = []
    for part in _split_escaped(text):
        if not part:
            continue
        match = re.match(r"((?:\\.|[^=!\\])*)(!=|==|=)(.*)", part, re.DOTALL)
        if match is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = match[1], match[2], re.sub(r"\\([\\,=])", r"\1", match[3])
        if path not in known:
            if kind in _FIELDS:
                raise SelectorError(f"field label not supported: {path}")
            labels = '"metadata.name", "metadata.namespace"'
            raise SelectorError(f'"{path}" is not a known field selector: only {labels}')
        found.append(FieldRequirement(path, value, operator == "!=", known[path]))
    return FieldSelector(tuple(found))


def _split_escaped(text: str) -> list[str]:
    return re.findall(r"(?:\\.|[^,\\])+", text, re.DOTALL)
