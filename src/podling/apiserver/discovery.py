"""What this server serves, in both forms clients ask for.

The old form is a document a group and one a version (`/api`, `/apis`, `/apis/GROUP/VERSION`), the
aggregated form one document each for `/api` and `/apis` (`apidiscovery.k8s.io/v2`), chosen by the Accept
header. Both follow from the declarations in `resources.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from podling.apiserver.negotiation import clauses
from podling.apiserver.objects import Object, encode
from podling.apiserver.request import Request, Response
from podling.apiserver.resource import Resource, Subresource

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Discovery:
    def __init__(self, resources: Sequence[Resource], server_address: str) -> None:
        self._resources = resources
        self._server_address = server_address

    def paths(self) -> list[str]:
        """Every path there is a document at."""
        return list(self._documents)

    def answer(self, request: Request) -> Response | None:
        """The document at a path; None when there is none. Raises APIError 406."""
        path = request.path.rstrip("/")
        if path in ("/api", "/apis") and _wants_aggregated(request.accept):
            body = encode(self._aggregated(core=path == "/api"))
            return Response(200, body, AGGREGATED, {"Vary": "Accept"})
        document = self._documents.get(path)
        if document is None:
            return None
        return Response(200, encode(document), headers={"Vary": "Accept"})

    @cached_property
    def _documents(self) -> dict[str, Object]:
        documents: dict[str, Object] = {
            "/api": {
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [
                    {"clientCIDR": "0.0.0.0/0", "serverAddress": self._server_address}
                ],
            },
            "/apis": {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(group, versions) for group, versions in self._groups().items() if group],
            },
        }
        for group, versions in self._groups().items():
            if group:
                versions_document = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)}
                documents[f"/apis/{group}"] = versions_document
            for version in versions:
                path = f"/apis/{group}/{version}" if group else f"/api/{version}"
                documents[path] = self._resource_list(group, version)
        return documents

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for resource in self._resources:
            versions = groups.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return groups

    def _of(self, group: str, version: str) -> list[Resource]:
        found = [r for r in self._resources if r.group == group and r.version == version]
        return sorted(found, key=lambda r: r.plural)

    def _resource_list(self, group: str, version: str) -> Object:
        entries: list[Object] = []
        for resource in self._of(group, version):
            entries.append(_entry(resource))
            entries += [_sub_entry(resource, n, s) for n, s in sorted(resource.subresources.items())]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": entries,
        }

    def _aggregated(self, *, core: bool) -> Object:
        items = [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": version,
                        "resources": [_aggregated_entry(r) for r in self._of(group, version)],
                        "freshness": "Current",
                    }
                    for version in versions
                ],
            }
            for group, versions in self._groups().items()
            if core is (not group)
        ]
        api_version = "apidiscovery.k8s.io/v2"
        return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _wants_aggregated(accept: str) -> bool:
    """The first clause we can serve asks for the aggregated form."""
    for clause in clauses(accept):
        if clause.media_type == "application/json":
            wanted = clause.parameters
            if not wanted:
                return False
            if (wanted.get("g"), wanted.get("v"), wanted.get("as")) == (
                "apidiscovery.k8s.io",
                "v2",
                "APIGroupDiscoveryList",
            ):
                return True
        elif clause.media_type == "*/*":
            return False
    return False


def _group(group: str, versions: list[str]) -> Object:
    named = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": named, "preferredVersion": named[0]}


def _entry(resource: Resource) -> Object:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry


def _sub_entry(resource: Resource, name: str, subresource: Subresource) -> Object:
    entry: Object = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": subresource.kind or resource.kind,
        "verbs": sorted(subresource.verbs),
    }
    if subresource.group:
        entry |= {"group": subresource.group, "version": subresource.version}
    return entry


def _aggregated_entry(resource: Resource) -> Object:
    entry: Object = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": name,
                "responseKind": {
                    "group": sub.group or resource.group,
                    "version": sub.version or resource.version,
                    "kind": sub.kind or resource.kind,
                },
                "verbs": sorted(sub.verbs),
            }
            for name, sub in sorted(resource.subresources.items())
        ]
    return entry
