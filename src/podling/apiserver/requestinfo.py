"""What a URL and a method ask for: the verb, and the resource or path it is about.

The same facts serve authorization, routing and error texts, for paths that exist and those that do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from podling.apiserver.request import Query

_VERBS = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    path: str
    verb: str
    """For paths that are no resource: the method in lower case."""
    resource: str = ""
    """Plural; empty when the path names no resource."""
    group: str = ""
    version: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    subpath: str = ""
    """What follows the subresource."""

    @property
    def qualified(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource


def parse(method: str, path: str, query: Query) -> RequestInfo:
    """Read `/api/VERSION/...` and `/apis/GROUP/VERSION/...`; anything else is a path."""
    parts = path.strip("/").split("/")
    if "" in parts:
        return RequestInfo(path=path, verb=method.lower())
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(path=path, verb=method.lower())
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    verb = _VERBS.get(method, "")
    if verb == "get" and len(rest) < 3 and query.flag("watch"):
        verb = "watch"
    elif not name and verb in ("get", "delete"):
        verb = "list" if verb == "get" else "deletecollection"
    return RequestInfo(
        path=path,
        verb=verb,
        resource=rest[0],
        group=group,
        version=version,
        namespace=namespace,
        name=name,
        subresource=rest[2] if len(rest) > 2 else "",
        subpath="/".join(rest[3:]),
    )
