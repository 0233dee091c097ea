"""Which kinds there are, from the client's side: the Python type of a kind and where its objects live.

One entry a kind. The API server has its own, richer declaration of each (`podling.apiserver.resources`);
what both must agree on is public knowledge: group, version, plural and scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from podling.api import (
    apps_v1,
    certificates_v1,
    coordination_v1,
    core_v1,
    discovery_v1,
    meta_v1,
    networking_v1,
    rbac_v1,
)

_RBAC = "rbac.authorization.k8s.io"


class Object(Protocol):
    """What every kind has."""

    api_version: str
    kind: str
    metadata: meta_v1.ObjectMeta


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    group: str
    """Empty for the core group."""
    version: str
    plural: str
    namespaced: bool

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The URL path; a namespaced kind without `namespace` names the collection over all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [p for p in (self.plural, name, subresource) if p]
        return "/".join(parts)


def _core(plural: str, *, namespaced: bool = True) -> ResourceInfo:
    return ResourceInfo(group="", version="v1", plural=plural, namespaced=namespaced)


RESOURCES: dict[type, ResourceInfo] = {
    core_v1.ConfigMap: _core("configmaps"),
    core_v1.Endpoints: _core("endpoints"),
    core_v1.Event: _core("events"),
    core_v1.Namespace: _core("namespaces", namespaced=False),
    core_v1.Node: _core("nodes", namespaced=False),
    core_v1.PersistentVolume: _core("persistentvolumes", namespaced=False),
    core_v1.PersistentVolumeClaim: _core("persistentvolumeclaims"),
    core_v1.Pod: _core("pods"),
    core_v1.ReplicationController: _core("replicationcontrollers"),
    core_v1.Secret: _core("secrets"),
    core_v1.Service: _core("services"),
    core_v1.ServiceAccount: _core("serviceaccounts"),
    apps_v1.ControllerRevision: ResourceInfo("apps", "v1", "controllerrevisions", namespaced=True),
    apps_v1.Deployment: ResourceInfo("apps", "v1", "deployments", namespaced=True),
    apps_v1.ReplicaSet: ResourceInfo("apps", "v1", "replicasets", namespaced=True),
    certificates_v1.CertificateSigningRequest: ResourceInfo(
        "certificates.k8s.io", "v1", "certificatesigningrequests", namespaced=False
    ),
    coordination_v1.Lease: ResourceInfo("coordination.k8s.io", "v1", "leases", namespaced=True),
    discovery_v1.EndpointSlice: ResourceInfo("discovery.k8s.io", "v1", "endpointslices", namespaced=True),
    networking_v1.NetworkPolicy: ResourceInfo("networking.k8s.io", "v1", "networkpolicies", namespaced=True),
    rbac_v1.ClusterRole: ResourceInfo(_RBAC, "v1", "clusterroles", namespaced=False),
    rbac_v1.ClusterRoleBinding: ResourceInfo(_RBAC, "v1", "clusterrolebindings", namespaced=False),
    rbac_v1.Role: ResourceInfo(_RBAC, "v1", "roles", namespaced=True),
    rbac_v1.RoleBinding: ResourceInfo(_RBAC, "v1", "rolebindings", namespaced=True),
}
_PARTIAL: dict[type, type] = {}
"""The whole kind behind each metadata-only one."""


def info(kind: type) -> ResourceInfo:
    return RESOURCES[_PARTIAL.get(kind, kind)]


def metadata_only(kind: type[Any]) -> type[Any]:
    """A type of the same resource that has nothing but metadata: what it does not know is not decoded."""
    known = next((partial for partial, whole in _PARTIAL.items() if whole is kind), None)
    if known is not None:
        return known
    whole: Any = kind()
    made = msgspec.defstruct(
        f"Partial{kind.__name__}",
        [
            ("api_version", str, msgspec.field(default_factory=lambda: whole.api_version)),
            ("kind", str, msgspec.field(default_factory=lambda: whole.kind)),
            ("metadata", meta_v1.ObjectMeta, msgspec.field(default_factory=meta_v1.ObjectMeta)),
        ],
        kw_only=True,
        rename="camel",
    )
    _PARTIAL[made] = kind
    return made
