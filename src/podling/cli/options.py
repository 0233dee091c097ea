"""Options several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

DEFAULT_NAME = "podling"

Decorated = Callable[..., Any]


def cluster_name(function: Decorated) -> Decorated:
    """`--name`, else $PODLING_NAME, else `podling`."""
    return click.option(
        "--name", envvar="PODLING_NAME", default=DEFAULT_NAME, show_default=True, help="Name of the cluster."
    )(function)
