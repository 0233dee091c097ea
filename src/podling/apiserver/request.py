"""A request and its answers, free of any HTTP library: the HTTPS edge and the in-process transport
both make the first and carry out the second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from podling.apiserver import errors


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the authenticator knows besides, such as the pod a token is bound to."""


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ALL_AUTHENTICATED = "system:authenticated"


class Query:
    """Parameters of a URL; a parameter may occur more than once."""

    __slots__ = ("_values", "raw")

    def __init__(self, values: Mapping[str, Sequence[str]], raw: str = "") -> None:
        self._values = values
        self.raw = raw
        """As it stood in the URL, for what passes requests on."""

    def get(self, name: str, default: str = "") -> str:
        values = self._values.get(name)
        return values[0] if values else default

    def all(self, name: str) -> Sequence[str]:
        return self._values.get(name, ())

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        """Go's strconv.ParseBool, with presence alone ("?watch") meaning true as in Kubernetes.

        Raises APIError 400.
        """
        if name not in self._values:
            return False
        text = self.get(name)
        if text in ("", "1", "t", "T", "true", "TRUE", "True"):
            return True
        if text in ("0", "f", "F", "false", "FALSE", "False"):
            return False
        raise errors.bad_request(f'strconv.ParseBool: parsing "{text}": invalid syntax')

    def integer(self, name: str) -> int | None:
        """Raises APIError 400."""
        text = self.get(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


@dataclass(slots=True, kw_only=True)
class Request:
    method: str
    path: str
    """Decoded, without the query."""
    query: Query
    user: User
    body: bytes = b""
    content_type: str = ""
    accept: str = ""
    upgrade: bool = False
    """The client asks for another protocol on this connection (exec, attach, port-forward)."""
    warnings: list[str] = field(default_factory=list)
    """Texts for `Warning` headers of the answer."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of unknown length. `chunks` is closed when the client goes away."""

    status: int
    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Pass the connection on to `url` (a kubelet's), whatever protocol the client asked for."""

    url: str


Answer = Response | Stream | Upgrade
