"""The RPCs as data, read from the Protocols in `service.py`: so there is one list of them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from podling.runtime.cri.service import ImageService, RuntimeService

PACKAGE: Final = "runtime.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    attribute: str
    """Of the coroutine or asynchronous generator: `run_pod_sandbox`."""
    name: str
    """On the wire: `RunPodSandbox`."""
    path: str
    """HTTP/2's: `/runtime.v1.RuntimeService/RunPodSandbox`."""
    request_type: type[msgspec.Struct]
    response_type: type[msgspec.Struct]
    streams: bool
    """The server answers with any number of messages."""


def _methods(service: type[Any]) -> tuple[Method, ...]:
    return tuple(
        _method(service, name)
        for name, _ in inspect.getmembers(service, inspect.isfunction)
        if name[0] != "_"
    )


def _method(service: type[Any], attribute: str) -> Method:
    hints = get_type_hints(getattr(service, attribute))
    response = hints["return"]
    streams = get_origin(response) is AsyncIterator
    name = "".join(word.capitalize() for word in attribute.split("_"))
    return Method(
        attribute=attribute,
        name=name,
        path=f"/{PACKAGE}.{service.__name__}/{name}",
        request_type=hints["request"],
        response_type=get_args(response)[0] if streams else response,
        streams=streams,
    )


RUNTIME_METHODS: Final = _methods(RuntimeService)
IMAGE_METHODS: Final = _methods(ImageService)
METHOD_OF: Final = {method.attribute: method for method in (*RUNTIME_METHODS, *IMAGE_METHODS)}
"""The names of the two services' RPCs differ."""
