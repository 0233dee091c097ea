"""resourceVersion, resourceVersionMatch and continue tokens of lists and watches.

Kubernetes API conventions, "Concurrency Control and Consistency", and API concepts, "Resource versions".
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

import msgspec

from podling.apiserver import errors
from podling.apiserver.objects import encode
from podling.apiserver.request import Request


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: str


@dataclass(frozen=True, slots=True)
class ListPosition:
    revision: int = 0
    """List as of this revision; 0 for now."""
    after: str = ""
    """Continue behind this key, relative to the request's prefix."""
    at_least: int = 0
    """Refuse when the server has not got this far."""


def parse(text: str) -> int:
    """A resourceVersion parameter; empty is 0. Raises APIError 400."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise errors.bad_request(
            f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def list_position(request: Request) -> ListPosition:
    """Raises APIError 400, 410."""
    query = request.query
    token, version, match = (
        query.get("continue"),
        query.get("resourceVersion"),
        query.get("resourceVersionMatch"),
    )
    revision = parse(version)
    if match and match not in ("Exact", "NotOlderThan"):
        raise _invalid(
            f'resourceVersionMatch: Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        )
    if match and token:
        raise _invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"
        )
    if match and not version:
        raise _invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion "
            "is provided"
        )
    if match == "Exact" and version == "0":
        raise _invalid(
            'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for '
            'resourceVersion "0"'
        )
    if token:
        if version not in ("", "0"):
            raise errors.bad_request("specifying resource version is not allowed when using continue")
        return _decode_token(token)
    if match == "Exact" or (revision and not match and query.get("limit") not in ("", "0")):
        return ListPosition(revision=revision, at_least=revision)
    return ListPosition(at_least=revision)


def continue_token(revision: int, last: str) -> str:
    """For the page behind `last`, a key relative to the request's prefix."""
    token = encode({"v": "meta.k8s.io/v1", "rv": revision, "start": f"{last}\0"})
    return urlsafe_b64encode(token).decode().rstrip("=")


def _decode_token(text: str) -> ListPosition:
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        token = msgspec.json.decode(raw, type=_Token)
    except (ValueError, msgspec.MsgspecError) as err:
        raise errors.bad_request(f"continue key is not valid: {err}") from err
    if token.v != "meta.k8s.io/v1":
        raise errors.bad_request(
            f'continue key is not valid: server does not recognize this encoded version "{token.v}"'
        )
    return ListPosition(revision=token.rv, after=token.start.removesuffix("\0"))


def _invalid(text: str) -> errors.APIError:
    return errors.APIError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {text}')
