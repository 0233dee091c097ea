"""`--format`: the part of Go's templates that people use with docker.

    {{.State.Pid}}   {{json .Config}}   {{index .Config.Labels "a"}}   {{.Label "a"}}
    {{range .Mounts}}{{.Source}} {{end}}   {{range $name, $net := .NetworkSettings.Networks}}...{{end}}
    {{if .State.Running}}up{{else}}down{{end}}   {{join .Args " "}}   {{len .Mounts}}   {{.Name | upper}}

Go documentation, "text/template". A template is parsed to nodes and these are rendered; what it asks for and
is not there is an error that names it, as with docker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\||\(|\)|:=|,|[^\s|(),]+')
_RANGE = re.compile(r"(?:(\$\w+)(?:\s*,\s*(\$\w+))?\s*:=\s*)?(.+)", re.DOTALL)


class TemplateError(Exception):
    pass


@dataclass(slots=True)
class _Block:
    """`{{range}}` or `{{if}}`."""

    kind: str
    expression: str
    body: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


_Node = str | tuple[str] | _Block
"""Text, an expression, a block."""


def parse(text: str) -> list[_Node]:
    r"""`\t` and `\n` mean what they say, as on docker's command line. Raises `TemplateError`."""
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    root: list[_Node] = []
    open_blocks: list[_Block] = []
    into, at = root, 0
    for match in _ACTION.finditer(text):
        before, at = text[at : match.start()], match.end()
        into.append(before.rstrip() if match[1] else before)
        if match[3]:
            at += len(text[at:]) - len(text[at:].lstrip())
        word, _, rest = match[2].partition(" ")
        if word in ("range", "if"):
            block = _Block(word, rest.strip())
            into.append(block)
            open_blocks.append(block)
            into = block.body
        elif word == "else" and open_blocks:
            into = open_blocks[-1].otherwise
        elif word == "end" and open_blocks:
            open_blocks.pop()
            parent = open_blocks[-1] if open_blocks else None
            into = root if parent is None else parent.otherwise or parent.body
        elif word in ("else", "end", ""):
            raise TemplateError(f"template parsing error: unexpected {{{{{match[2]}}}}}")
        else:
            into.append((match[2],))
    if open_blocks or "{{" in text[at:]:
        raise TemplateError("template parsing error: unexpected EOF")
    into.append(text[at:])
    return root


def render(nodes: Sequence[_Node], value: Any) -> str:
    return "".join(_render(nodes, value, {"$": value}))


def _render(nodes: Sequence[_Node], dot: Any, names: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, tuple):
            yield show(_evaluate(node[0], dot, names))
        elif node.kind == "if":
            branch = node.body if _evaluate(node.expression, dot, names) else node.otherwise
            yield from _render(branch, dot, names)
        else:
            yield from _render_range(node, dot, names)


def _render_range(block: _Block, dot: Any, names: Mapping[str, Any]) -> Iterator[str]:
    match = _RANGE.fullmatch(block.expression)
    if match is None:
        raise TemplateError("template parsing error: missing value for range")
    first, second, expression = match.groups()
    over = _evaluate(expression, dot, names) or []
    items = sorted(over.items()) if isinstance(over, Mapping) else list(enumerate(over))
    for key, item in items:
        named = {second: item, first: key} if second else {first: item} if first else {}
        yield from _render(block.body, item, {**names, **named})
    if not items:
        yield from _render(block.otherwise, dot, names)


# expressions


def _evaluate(expression: str, dot: Any, names: Mapping[str, Any]) -> Any:
    tokens = _TOKEN.findall(expression)
    value, piped = None, False
    for stage in _split(tokens):
        arguments = [_operand(token, dot, names) for token in stage[1:]] + ([value] if piped else [])
        value, piped = _call(stage[0], arguments, dot, names), True
    return value


def _split(tokens: list[str]) -> Iterator[list[str]]:
    stage: list[str] = []
    for token in [*tokens, "|"]:
        if token in ("(", ")"):
            raise TemplateError("template parsing error: parentheses are not supported")
        if token != "|":
            stage.append(token)
        elif stage:
            yield stage
            stage = []
        else:
            raise TemplateError("template parsing error: missing value for command")


def _call(name: str, arguments: list[Any], dot: Any, names: Mapping[str, Any]) -> Any:
    if name in FUNCTIONS:
        try:
            return FUNCTIONS[name](*arguments)
        except (TypeError, IndexError, KeyError, ValueError) as err:
            raise TemplateError(f"template: error calling {name}: {err}") from err
    value = _operand(name, dot, names)
    if not arguments:
        return value
    if callable(value):
        return value(*arguments)
    raise TemplateError(f"template: {name} has arguments but cannot be invoked as function")


def _operand(token: str, dot: Any, names: Mapping[str, Any]) -> Any:
    if token[0] in '"`':
        return json.loads(token) if token[0] == '"' else token[1:-1]
    if re.fullmatch(r"-?\d+", token):
        return int(token)
    if token in ("true", "false"):
        return token == "true"
    if token == ".":
        return dot
    head, _, path = token.partition(".")
    if head.startswith("$"):
        if head not in names:
            raise TemplateError(f'template parsing error: undefined variable "{head}"')
        return _walk(names[head], path, token)
    if head:
        raise TemplateError(f'template parsing error: function "{token}" not defined')
    return _walk(dot, path, token)


def _walk(value: Any, path: str, token: str) -> Any:
    for key in filter(None, path.split(".")):
        if not isinstance(value, Mapping) or key not in value:
            raise TemplateError(f'template: executing "" at <{token}>: map has no entry for key "{key}"')
        value = value[key]
    return value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else value[key]
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":")),
    "index": _index,
    "len": len,
    "join": lambda values, separator="": separator.join(map(show, values)),
    "split": lambda text, separator: text.split(separator),
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "print": lambda *values: "".join(map(show, values)),
    "printf": lambda form, *values: re.sub("%[vqd]", "%s", form) % tuple(map(show, values)),
    "not": lambda value: not value,
    "eq": lambda one, *others: one in others,
    "ne": lambda one, other: one != other,
}


def show(value: Any) -> str:
    """As Go's `%v`."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "<no value>"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{show(value[key])}' for key in sorted(value))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(show, value))}]"
    return str(value)


# what commands do with it


def formatted(form: str, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """`--format` of a list: `json`, `table TEMPLATE` with a heading, or a template for each row."""
    from podling.cli.ps import table

    if form == "json":
        plain = [{key: item for key, item in row.items() if not callable(item)} for row in rows]
        return "".join(f"{json.dumps(row, separators=(',', ':'))}\n" for row in plain)
    with_heading = form.startswith("table ")
    nodes = parse(form.removeprefix("table "))
    lines = [render(nodes, row) for row in rows]
    if not with_heading:
        return "".join(f"{line}\n" for line in lines)
    heading = render(nodes, {**titles, "Label": lambda name: name})
    cells = [line.split("\t") for line in (heading, *lines)]
    return table(cells)
