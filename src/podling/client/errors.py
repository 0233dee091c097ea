"""What may go wrong between a component and its API server.

    ClientError
    ├── TransportError            no answer: connection refused, reset, TLS, deadline
    ├── DecodeError               an answer that is not what the kind promises
    └── ApiError                  the server answered with a Status
        ├── BadRequestError 400   UnauthorizedError 401   ForbiddenError 403   NotFoundError 404
        ├── ConflictError 409 (optimistic concurrency)    AlreadyExistsError 409
        ├── GoneError 410         InvalidError 422        TooManyRequestsError 429
        └── ServerError 5xx
            └── ServerTimeoutError 504, or reason ServerTimeout

Callers match on class: `TransportError`, `TooManyRequestsError` and `ServerError` are worth another try,
the others are not until something changes. `status` holds the server's own words (Kubernetes API
conventions, "Response Status Kind").
"""

from __future__ import annotations

import msgspec

from podling.api import meta_v1


class ClientError(Exception):
    """Root of everything `podling.client` raises on purpose."""


class TransportError(ClientError):
    """The server could not be reached, or the connection broke before the answer was complete."""


class DecodeError(ClientError):
    """The body is not JSON, or not an object of the kind asked for."""


class ApiError(ClientError):
    """The server refused: `status` is its `v1.Status`."""

    def __init__(self, status: meta_v1.Status) -> None:
        super().__init__(status.message or status.reason or f"the server answered with code {status.code}")
        self.status = status

    @property
    def code(self) -> int:
        return self.status.code or 0

    @property
    def reason(self) -> str:
        return self.status.reason or ""

    @property
    def retry_after_s(self) -> int | None:
        """Seconds the server asks us to wait before the next try, if it said so."""
        return self.status.details.retry_after_seconds if self.status.details else None


class BadRequestError(ApiError): ...


class UnauthorizedError(ApiError): ...


class ForbiddenError(ApiError): ...


class NotFoundError(ApiError): ...


class ConflictError(ApiError): ...


class AlreadyExistsError(ApiError): ...


class GoneError(ApiError):
    """The resourceVersion asked for is no longer known: list again."""


class InvalidError(ApiError): ...


class TooManyRequestsError(ApiError): ...


class ServerError(ApiError): ...


class ServerTimeoutError(ServerError): ...


_BY_REASON: dict[str, type[ApiError]] = {
    "BadRequest": BadRequestError,
    "Unauthorized": UnauthorizedError,
    "Forbidden": ForbiddenError,
    "NotFound": NotFoundError,
    "Conflict": ConflictError,
    "AlreadyExists": AlreadyExistsError,
    "Gone": GoneError,
    "Expired": GoneError,
    "Invalid": InvalidError,
    "TooManyRequests": TooManyRequestsError,
    "ServerTimeout": ServerTimeoutError,
    "Timeout": ServerTimeoutError,
}
_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
    504: ServerTimeoutError,
}
_STATUS = msgspec.json.Decoder(meta_v1.Status)


def error_from_status(status: meta_v1.Status) -> ApiError:
    """The exception for a Status: by reason where it has one (409 has two), else by code."""
    cls = _BY_REASON.get(status.reason or "") or _BY_CODE.get(status.code or 0)
    if cls is None:
        cls = ServerError if (status.code or 0) >= 500 else ApiError
    return cls(status)


def error_from_response(code: int, body: bytes) -> ApiError:
    """The exception for an HTTP answer of 400 and above; a body that is no Status becomes its message."""
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        status = meta_v1.Status(message=body[:1024].decode("utf-8", "replace").strip() or None)
    if not status.code:
        status.code = code
    return error_from_status(status)
