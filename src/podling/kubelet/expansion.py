"""`$(VAR)` expansion in commands, arguments, environment values and subPathExpr.

Kubernetes documentation, "Define Environment Variables for a Container": `$(VAR)` is replaced when VAR
is known and left alone when not; `$$(VAR)` is the text `$(VAR)`.
"""

from __future__ import annotations

from collections.abc import Mapping


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace every `$(NAME)` by its value; unknown names stay as they are written."""
    if "$" not in text:
        return text
    out: list[str] = []
    cursor = 0
    while cursor < len(text):
        if text[cursor] != "$" or cursor + 1 == len(text):
            out.append(text[cursor])
            cursor += 1
            continue
        follows = text[cursor + 1]
        end = text.find(")", cursor + 2) if follows == "(" else -1
        if end >= 0:
            name = text[cursor + 2 : end]
            out.append(_value(name, variables))
            cursor = end + 1
        else:
            out.append("$" if follows == "$" else "$" + follows)
            cursor += 2
    return "".join(out)


def _value(name: str, variables: Mapping[str, str]) -> str:
    try:
        return variables[name]
    except KeyError:
        return f"$({name})"


def missing_names(text: str, variables: Mapping[str, str]) -> list[str]:
    """Names that `expand` would leave in place."""
    missing: list[str] = []
    expand(text, _Recorder(variables, missing))
    return missing


class _Recorder(dict[str, str]):
    """Notes the names it is asked for and does not have."""

    def __init__(self, variables: Mapping[str, str], missing: list[str]) -> None:
        super().__init__(variables)
        self._missing = missing

    def __missing__(self, name: str) -> str:
        self._missing.append(name)
        return ""
