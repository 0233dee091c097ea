"""The roles and bindings every cluster starts with, as data.

Names and rules are the documented defaults (Kubernetes documentation, "Using RBAC Authorization", "Default
roles and role bindings"). Left out are the roles of controllers that have no identity of their own here, and
what belongs to kinds this server does not serve and no client asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from podling.apiserver.objects import Object
from podling.apiserver.rbac.bindings import GROUP

_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
_ALL: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_BOOTSTRAPPING: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTO_UPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_AGGREGATE: Final = "rbac.authorization.k8s.io/aggregate-to-"

Rule = dict[str, Any]


def _rule(verbs: tuple[str, ...], group: str, *resources: str, names: tuple[str, ...] = ()) -> Rule:
    rule: Rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    if names:
        rule["resourceNames"] = list(names)
    return rule


def _paths(*urls: str) -> Rule:
    return {"nonResourceURLs": list(urls), "verbs": ["get"]}


_HEALTH: Final = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_EVENTS: Final = (
    _rule(("create", "patch", "update"), "", "events"),
    _rule(("create", "patch", "update"), "events.k8s.io", "events"),
)
_VIEWED: Final = {
    "": (
        "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces/status",
        "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
        "replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
        "resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status",
    ),
    "apps": (
        "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
        "deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets",
        "statefulsets/scale", "statefulsets/status",
    ),
    "autoscaling": ("horizontalpodautoscalers", "horizontalpodautoscalers/status"),
    "batch": ("cronjobs", "cronjobs/status", "jobs", "jobs/status"),
    "discovery.k8s.io": ("endpointslices",),
    "networking.k8s.io": ("ingresses", "ingresses/status", "networkpolicies"),
    "policy": ("poddisruptionbudgets", "poddisruptionbudgets/status"),
}  # fmt: skip
_EDITED: Final = {
    "": (
        "configmaps", "events", "persistentvolumeclaims", "pods", "pods/attach", "pods/exec",
        "pods/portforward", "pods/proxy", "replicationcontrollers", "replicationcontrollers/scale",
        "secrets", "serviceaccounts", "services", "services/proxy",
    ),
    "apps": (
        "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
        "replicasets/scale", "statefulsets", "statefulsets/scale",
    ),
    "autoscaling": ("horizontalpodautoscalers",),
    "batch": ("cronjobs", "jobs"),
    "networking.k8s.io": ("ingresses", "networkpolicies"),
    "policy": ("poddisruptionbudgets",),
}  # fmt: skip

_VIEW: Final = (
    *(_rule(_READ, group, *resources) for group, resources in _VIEWED.items()),
    _rule(_READ, "", "namespaces"),
)
_EDIT: Final = (
    _rule(
        _READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"
    ),
    _rule(("impersonate",), "", "serviceaccounts"),
    *(_rule(_WRITE, group, *resources) for group, resources in _EDITED.items()),
    _rule(("create",), "", "pods/eviction", "serviceaccounts/token"),
    _rule(_ALL, "coordination.k8s.io", "leases"),
)
_ADMIN: Final = (
    _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule(_ALL, GROUP, "rolebindings", "roles"),
)

CLUSTER_ROLES: Final[dict[str, tuple[Rule, ...]]] = {
    "cluster-admin": (
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ),
    "system:aggregate-to-admin": _ADMIN,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-view": _VIEW,
    # Aggregated; these are their rules until the controller has looked.
    "admin": (*_ADMIN, *_EDIT, *_VIEW),
    "edit": (*_EDIT, *_VIEW),
    "view": _VIEW,
    "system:auth-delegator": (
        _rule(("create",), "authentication.k8s.io", "tokenreviews"),
        _rule(("create",), "authorization.k8s.io", "subjectaccessreviews"),
    ),
    "system:basic-user": (
        _rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        _rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
    ),
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient": (
        _rule(("create",), "certificates.k8s.io", "certificatesigningrequests/nodeclient"),
    ),
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": (
        _rule(("create",), "certificates.k8s.io", "certificatesigningrequests/selfnodeclient"),
    ),
    "system:discovery": (_paths("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *_HEALTH),),
    "system:kubelet-api-admin": (
        _rule(("get", "list", "watch", "proxy"), "", "nodes"),
        _rule(("*",), "", "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"),
    ),
    "system:monitoring": (
        _paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"),
    ),
    "system:node-bootstrapper": (
        _rule(("create", "get", "list", "watch"), "certificates.k8s.io", "certificatesigningrequests"),
    ),
    "system:node-proxier": (
        _rule(("list", "watch"), "", "endpoints", "services"),
        _rule(("get", "list", "watch"), "", "nodes"),
        _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
        *_EVENTS,
    ),
    "system:coredns": (
        _rule(("list", "watch"), "", "endpoints", "namespaces", "pods", "services"),
        _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
    ),
    "system:public-info-viewer": (_paths(*_HEALTH),),
    "system:service-account-issuer-discovery": (
        _paths(
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ),
    ),
}

_AGGREGATED: Final = {"admin": "admin", "edit": "edit", "view": "view"}
_AGGREGATES_TO: Final = {
    "system:aggregate-to-admin": "admin",
    "system:aggregate-to-edit": "edit",
    "system:aggregate-to-view": "view",
    # Whoever may edit may view, and an admin may edit.
    "edit": "admin",
    "view": "edit",
}

AUTHENTICATED: Final = "system:authenticated"
CLUSTER_ROLE_BINDINGS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "cluster-admin": (("Group", "system:masters"),),
    "system:basic-user": (("Group", AUTHENTICATED),),
    "system:discovery": (("Group", AUTHENTICATED),),
    "system:monitoring": (("Group", "system:monitoring"),),
    "system:node-proxier": (("User", "system:kube-proxy"),),
    # As kubeadm binds them: who shows a bootstrap token asks for a kubelet's certificate and gets it, and a
    # node gets its next one.
    "system:node-bootstrapper": (("Group", "system:bootstrappers"),),
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient": (("Group", "system:bootstrappers"),),
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": (("Group", "system:nodes"),),
    "system:public-info-viewer": (("Group", AUTHENTICATED), ("Group", "system:unauthenticated")),
    "system:service-account-issuer-discovery": (("Group", "system:serviceaccounts"),),
}
"""Name of the role and of its binding -> kind and name of each subject."""


def cluster_roles() -> Iterator[Object]:
    for name, rules in CLUSTER_ROLES.items():
        role = _object("ClusterRole", name)
        if name in _AGGREGATES_TO:
            role["metadata"]["labels"][f"{_AGGREGATE}{_AGGREGATES_TO[name]}"] = "true"
        if name in _AGGREGATED:
            wanted = {"matchLabels": {f"{_AGGREGATE}{_AGGREGATED[name]}": "true"}}
            role["aggregationRule"] = {"clusterRoleSelectors": [wanted]}
        yield {**role, "rules": [dict(rule) for rule in rules]}


def cluster_role_bindings() -> Iterator[Object]:
    for name, subjects in CLUSTER_ROLE_BINDINGS.items():
        yield {
            **_object("ClusterRoleBinding", name),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": GROUP, "kind": kind, "name": subject} for kind, subject in subjects],
        }


def _object(kind: str, name: str) -> Object:
    metadata = {"name": name, "labels": dict(_BOOTSTRAPPING), "annotations": {AUTO_UPDATE: "true"}}
    return {"kind": kind, "apiVersion": f"{GROUP}/v1", "metadata": metadata}
