"""JSON for programs that live ten milliseconds.

Importing `json` costs a CNI plugin 9 ms, most of it for `re`, which only error messages need. The scanner
behind `json` is written in C and can be called without it. What it does not take is given to `json`, which
raises the proper error; and so is everything where the interpreter has no such scanner.
"""

from __future__ import annotations

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


class _Settings:
    """What `json.JSONDecoder` hands to the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner clears it after each document


def loads(text: str | bytes) -> Any:
    """The document in `text`. `ValueError` (`json.JSONDecodeError`, or bad UTF-8) says where it is wrong."""
    if isinstance(text, bytes):
        text = text.decode().removeprefix("\ufeff")  # the codec for that would have to be imported
    if _json is None:
        return _slow_loads(text)
    start = 0
    while start < len(text) and text[start] in _SPACE:
        start += 1
    try:
        scan: Any = _json.make_scanner
        value, end = scan(_Settings())(text, start)
    except (StopIteration, SystemError):
        # Up to Python 3.12 the scanner finds no exception class to raise unless `json` is imported already.
        return _slow_loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value if not text[end:].strip(_SPACE) else _slow_loads(text)


def _slow_loads(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dumps(value: Any, *, indent: int = 4) -> str:
    """`value` as indented JSON, as the reference plugins print it. Takes what `loads` gives."""
    return _write(value, "\n", " " * indent)


def _write(value: Any, newline: str, step: str) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, int | float):
        return repr(value)
    inner = newline + step
    if isinstance(value, dict):
        items = [f"{_quote(key)}: {_write(item, inner, step)}" for key, item in value.items()]
        return "{" + inner + ("," + inner).join(items) + newline + "}" if items else "{}"
    if isinstance(value, list | tuple):
        items = [_write(item, inner, step) for item in value]
        return "[" + inner + ("," + inner).join(items) + newline + "]" if items else "[]"
    raise TypeError(f"not JSON: {value!r}")


def _quote(text: str) -> str:
    if _json is not None:
        return _json.encode_basestring_ascii(text)
    import json

    return json.dumps(text)
