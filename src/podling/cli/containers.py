"""What `ps`, `inspect` and `logs` share: where the runtime is, and how a name becomes a container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from podling.runtime.view import Seen, View, Views

Decorated = Callable[..., Any]


def runtime_dirs(function: Decorated) -> Decorated:
    """`--root-dir` and `--run-dir`, for a runtime that is not in the usual place."""
    for name, text in (("--root-dir", "The runtime's root directory."), ("--run-dir", "Its run directory.")):
        kind = click.Path(path_type=Path)
        function = click.option(name, type=kind, hidden=True, help=text)(function)
    return function


def open_view(root_dir: Path | None, run_dir: Path | None) -> View | Views:
    """The node agent's runtime and what was run by hand, or only the runtime at the given place."""
    from podling.runtime.config import RuntimeConfig
    from podling.runtime.view import View, Views

    usual = RuntimeConfig()
    if root_dir is None and run_dir is None:
        from podling.runtime.byhand.config import by_hand_config

        return Views([View(usual), View(by_hand_config())])
    return View(RuntimeConfig(root_dir=root_dir or usual.root_dir, run_dir=run_dir or usual.run_dir))


class Finds(Protocol):
    def find(self, wanted: str) -> list[Seen]: ...


def find_one(view: Finds, wanted: str) -> Seen:
    """Raises ClickException with Docker's words."""
    found = view.find(wanted)
    if not found:
        raise click.ClickException(f"No such container: {wanted}")
    if len(found) > 1:
        raise click.ClickException(f"multiple containers found with provided prefix: {wanted}")
    return found[0]


def human_duration(seconds: float) -> str:
    """As Docker writes ages: `About a minute`, `3 hours`."""
    minute, hour, day = 60, 3600, 86400
    if seconds < 1:
        return "Less than a second"
    if seconds < minute:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if seconds < hour:
        return "About a minute" if int(seconds / minute) == 1 else f"{int(seconds / minute)} minutes"
    hours = int(seconds / hour + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, name in ((48, 1, "hours"), (14 * 24, 24, "days"), (60 * 24, 7 * 24, "weeks")):
        if hours < limit:
            return f"{hours // unit} {name}"
    if hours < 2 * 365 * 24:
        return f"{hours // (30 * 24)} months"
    return f"{int(seconds / (365 * day))} years"
