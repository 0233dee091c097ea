"""`--filter KEY=VALUE`, as docker has it: several of one key are alternatives, all keys must fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from podling.cli.containers import find_one
from podling.cli.ps import labels_of

if TYPE_CHECKING:
    from podling.runtime.view import Seen

STATES = ("created", "running", "exited")
_OTHER_STATES = ("restarting", "removing", "paused", "dead")
"""docker's, in which no container of ours is."""

Test = Callable[["Seen"], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    tests: Sequence[Sequence[Test]]
    says_state: bool
    """Asks for a state: then containers that do not run are looked at too."""

    def __call__(self, seen: Seen) -> bool:
        return all(any(test(seen) for test in alternatives) for alternatives in self.tests)


def container_filter(texts: Sequence[str], every: Sequence[Seen]) -> Filter:
    """Raises ClickException in docker's words."""
    by_key: dict[str, list[Test]] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise click.ClickException(f"bad format of filter (expected name=value): {text}")
        by_key.setdefault(key, []).append(_test(key, value, every))
    # Labels must all be there.
    labels = [[test] for test in by_key.pop("label", [])]
    return Filter([*by_key.values(), *labels], says_state=bool({"status", "exited"} & by_key.keys()))


def _test(key: str, value: str, every: Sequence[Seen]) -> Test:
    match key:
        case "name":
            pattern = _pattern(value)
            return lambda seen: pattern.search(seen.name) is not None or f"/{seen.name}" == value
        case "id":
            return lambda seen: seen.id.startswith(value)
        case "label":
            name, separator, wanted = value.partition("=")
            if separator:
                return lambda seen: labels_of(seen).get(name) == wanted
            return lambda seen: name in labels_of(seen)
        case "status" if value in (*STATES, *_OTHER_STATES):
            return lambda seen: seen.state == value
        case "exited" if value.isdecimal():
            return lambda seen: seen.state == "exited" and seen.exit_code == int(value)
        case "ancestor":
            return lambda seen: _is_image(seen, value)
        case "network":
            return lambda seen: seen.settings is not None and seen.settings.network == value
        case "restart-policy":
            return lambda seen: seen.settings is not None and seen.settings.restart.policy == value
        case "pod":
            return lambda seen: _in_pod(seen, value, every)
        case "before" | "since":
            other = find_one(_Listed(every), value)
            if key == "before":
                return lambda seen: seen.created_at < other.created_at
            return lambda seen: seen.created_at > other.created_at
    if key in ("status", "exited"):
        raise click.ClickException(f"invalid filter '{key}={value}'")
    raise click.ClickException(f"invalid filter '{key}'")


def _pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error as err:
        raise click.ClickException(f"invalid filter 'name={value}': {err}") from err


def _is_image(seen: Seen, value: str) -> bool:
    image_id = seen.container.image_id if seen.container else ""
    name = seen.image if ":" in seen.image else f"{seen.image}:latest"
    return value in (seen.image, name) or (len(value) > 3 and image_id.startswith(value))


def _in_pod(seen: Seen, value: str, every: Sequence[Seen]) -> bool:
    pod = seen.settings.pod if seen.settings else ""
    names = {one.id: one.settings.pod_info.name for one in every if one.settings and one.settings.pod_info}
    return bool(pod) and (pod.startswith(value) or names.get(pod) == value)


@dataclass(frozen=True, slots=True)
class _Listed:
    every: Sequence[Seen]

    def find(self, wanted: str) -> list[Seen]:
        from podling.runtime.view import fitting

        return fitting(list(self.every), wanted)
