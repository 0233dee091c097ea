"""Refusals, as the `Status` objects Kubernetes answers with, in its words.

`APIError` is the one exception of this component: handlers raise it anywhere, the edge turns it into an
answer. The functions below are its constructors, named after the reason (Kubernetes API conventions,
"Response Status Kind"). `resource` is the qualified plural: `pods`, `leases.coordination.k8s.io`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TOO_OLD = "too old resource version: {0} ({1})"


class APIError(Exception):
    """An answer with a code of 400 or above."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        """The `v1.Status` that says so."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


def details(resource: str, name: str = "", **more: Any) -> dict[str, Any]:
    """The `details` of a Status; empty values are left out."""
    kind, _, group = resource.partition(".")
    found = {"name": name, "group": group, "kind": kind, **more}
    return {key: value for key, value in found.items() if value not in ("", None)}


def bad_request(message: str) -> APIError:
    return APIError(400, "BadRequest", message)


def unauthorized() -> APIError:
    return APIError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, why: str, *, causes: list[dict[str, str]] | None = None) -> APIError:
    subject = f'{resource} "{name}"' if name else resource
    return APIError(
        403,
        "Forbidden",
        f"{subject} is forbidden: {why}" if resource else f"forbidden: {why}",
        details=details(resource, name, causes=causes),
    )


def not_found(resource: str, name: str) -> APIError:
    return APIError(404, "NotFound", f'{resource} "{name}" not found', details=details(resource, name))


def unknown_path() -> APIError:
    return APIError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> APIError:
    message = "the server does not allow this method on the requested resource"
    return APIError(405, "MethodNotAllowed", message, details={})


def not_acceptable(accepted: Sequence[str]) -> APIError:
    return APIError(
        406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}"
    )


def already_exists(resource: str, name: str) -> APIError:
    message = f'{resource} "{name}" already exists'
    return APIError(409, "AlreadyExists", message, details=details(resource, name))


def conflict(resource: str, name: str, why: str) -> APIError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return APIError(409, "Conflict", message, details=details(resource, name))


def modified(resource: str, name: str) -> APIError:
    return conflict(
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )


def expired(message: str) -> APIError:
    """410: the resourceVersion or continue token is too old."""
    return APIError(410, "Expired", message)


def gone(message: str) -> APIError:
    return APIError(410, "Gone", message)


def too_large(limit_bytes: int) -> APIError:
    message = f"Request entity too large: limit is {limit_bytes}"
    return APIError(413, "RequestEntityTooLarge", message, headers={"Connection": "close"})


def unsupported_media_type(accepted: Sequence[str]) -> APIError:
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(
        accepted
    )
    return APIError(415, "UnsupportedMediaType", message)


def invalid(kind: str, name: str, faults: Sequence[Any], *, group: str = "") -> APIError:
    """422 for `faults`, the `FieldError`s of `podling.api.validation`."""
    texts = list(dict.fromkeys(str(fault) for fault in faults))
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind}.{group}" if group else kind
    causes = [{"reason": f.reason, "message": f.message, "field": f.field} for f in faults]
    return APIError(
        422,
        "Invalid",
        f'{qualified} "{name}" is invalid: {text}',
        details=details(qualified, name, causes=causes),
    )


def internal(message: str) -> APIError:
    return APIError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        details={"causes": [{"message": message}]},
    )


def unavailable(message: str) -> APIError:
    return APIError(503, "ServiceUnavailable", message, headers={"Retry-After": "1"})


def future_version(requested: int, current: int) -> APIError:
    message = f"Too large resource version: {requested}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return APIError(504, "Timeout", f"Timeout: {message}", details={"causes": causes, "retryAfterSeconds": 1})
