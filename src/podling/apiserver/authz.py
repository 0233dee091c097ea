"""Who may do what: the Node authorizer, then RBAC.

`system:masters` may do everything. A node may what the Node authorizer and the NodeRestriction admission
give it: read what it needs, write its own node, lease, and the pods bound to it. Scheduler and controllers,
which must work before any role is stored, have their rules here. All others, and these too, have what roles
are bound to them (`rbac/`). Everyone who is authenticated may discover the API and ask about themselves.

Only what a node may do to which pod needs a look at the object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from podling.apiserver import errors
from podling.apiserver.authn import MASTERS
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import View
from podling.apiserver.rbac.rules import allows
from podling.apiserver.request import ALL_AUTHENTICATED, Request, User
from podling.apiserver.requestinfo import RequestInfo

NODES = "system:nodes"
NODE_PREFIX = "system:node:"
NODE_LEASES = "kube-node-lease"

Look = Callable[[str, str, str], Awaitable[View | None]]
"""The newest state of an object by qualified plural, namespace and name (`Cluster.look`)."""

_READ = frozenset({"get", "list", "watch"})
_WRITE = frozenset({"create", "update", "patch"})
_ANY = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Rule:
    verbs: frozenset[str]
    resources: frozenset[str]
    """`resource.group` or `resource.group/subresource`; `*` for all."""
    namespace: str = ""
    """Only there; empty: anywhere."""

    def allows(self, info: RequestInfo) -> bool:
        if not _ANY & self.verbs and info.verb not in self.verbs:
            return False
        if self.namespace and info.namespace != self.namespace:
            return False
        return bool(_ANY & self.resources) or _full_resource(info) in self.resources


def _rule(verbs: frozenset[str] | set[str], *resources: str, namespace: str = "") -> Rule:
    return Rule(frozenset(verbs), frozenset(resources), namespace)


_EVENTS = _rule(_WRITE, "events", "events.events.k8s.io")
_SELF_REVIEWS = _rule(
    {"create"},
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "selfsubjectreviews.authentication.k8s.io",
)
_USERS: dict[str, tuple[Rule, ...]] = {
    "system:kube-scheduler": (
        _EVENTS,
        _rule(_READ, "pods", "nodes", "namespaces", "services", "replicationcontrollers"),
        _rule(_READ, "persistentvolumeclaims", "persistentvolumes", "replicasets.apps", "statefulsets.apps"),
        _rule({"delete"}, "pods"),
        _rule({"create"}, "bindings", "pods/binding"),
        _rule({"patch", "update"}, "pods/status"),
        _rule(_READ | _WRITE, "leases.coordination.k8s.io"),
    ),
    # Its controllers have an identity each upstream; together they touch every kind.
    "system:kube-controller-manager": (Rule(_ANY, _ANY),),
}
_NODE_RULES = (
    _EVENTS,
    _rule(_READ, "nodes", "services", "endpoints", "pods", "endpointslices.discovery.k8s.io"),
    # Our agents enforce network policies themselves.
    _rule(_READ, "namespaces", "networkpolicies.networking.k8s.io"),
    _rule(_WRITE, "nodes"),
    _rule({"patch", "update", "get"}, "nodes/status"),
    _rule({"create", "delete"}, "pods"),
    _rule({"patch", "update", "get"}, "pods/status"),
    _rule({"create"}, "pods/eviction", "serviceaccounts/token"),
    # A kubelet's next certificate.
    _rule(_READ | {"create"}, "certificatesigningrequests.certificates.k8s.io"),
    # Who asks the kubelet, and may they?
    _rule({"create"}, "tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"),
    _rule(_READ, "configmaps", "secrets", "serviceaccounts"),
    _rule({*_WRITE, "get", "delete"}, "leases.coordination.k8s.io", namespace=NODE_LEASES),
)
_DISCOVERY = ("/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz")


async def authorize(cluster: Cluster, request: Request, info: RequestInfo) -> None:
    """Raises APIError 403."""
    user = request.user
    if not await may(cluster, user, info):
        if not info.resource:
            raise errors.forbidden("", "", f'User "{user.name}" cannot {info.verb} path "{info.path}"')
        raise errors.forbidden(info.qualified, info.name, _cannot(user, info))
    if info.resource and is_node(user):
        await _restrict_node(user.name.removeprefix(NODE_PREFIX), request, info, cluster.look)


def unrestricted(user: User) -> bool:
    """Who may do everything, whatever roles say."""
    return MASTERS in user.groups or any(r.resources == r.verbs == _ANY for r in _USERS.get(user.name, ()))


async def may(cluster: Cluster, user: User, info: RequestInfo) -> bool:
    """Whether the user's rules allow the request, objects not looked at."""
    if unrestricted(user) or _built_in(user, info):
        return True
    rules = await cluster.bindings.rules_of(user, info.namespace if info.resource else "")
    return any(allows(rule, info) for rule in rules)


def _built_in(user: User, info: RequestInfo) -> bool:
    if not info.resource:
        path = info.path.rstrip("/") or "/"
        known = ALL_AUTHENTICATED in user.groups and info.verb == "get"
        return known and any(path == p or path.startswith(f"{p}/") for p in _DISCOVERY)
    rules = _NODE_RULES if is_node(user) else _USERS.get(user.name, ())
    return _SELF_REVIEWS.allows(info) or any(rule.allows(info) for rule in rules)


def is_node(user: User) -> bool:
    return user.name.startswith(NODE_PREFIX) and NODES in user.groups


def node_of(user: User) -> str | None:
    """The node a kubelet's user stands for."""
    return user.name.removeprefix(NODE_PREFIX) if is_node(user) else None


def _full_resource(info: RequestInfo) -> str:
    return f"{info.qualified}/{info.subresource}" if info.subresource else info.qualified


def _cannot(user: User, info: RequestInfo) -> str:
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    where = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
    return f'User "{user.name}" cannot {info.verb} resource "{resource}" in API group "{info.group}" {where}'


async def _restrict_node(node: str, request: Request, info: RequestInfo, look: Look) -> None:
    """What the rules leave open: which node, which lease, which pods, which secrets. Raises APIError 403."""
    match info.resource:
        case "nodes" if info.verb not in _READ and info.name and info.name != node:
            why = f'node "{node}" is not allowed to modify node "{info.name}"'
            raise errors.forbidden("nodes", info.name, why)
        case "leases" if info.name and info.name != node:
            why = f'node "{node}" can only access node lease with the same name as the requesting node'
            raise errors.forbidden(info.qualified, info.name, why)
        case "configmaps" | "secrets" | "serviceaccounts" if not info.name and info.verb in _READ:
            # Upstream: a list or watch of the single object that a pod of this node mounts.
            if not request.query.get("fieldSelector").startswith("metadata.name="):
                why = "can only list/watch/get a single object by name"
                raise errors.forbidden(info.qualified, "", why)
        case "pods" if info.verb not in _READ and info.name:
            pod = await look("pods", info.namespace, info.name)
            bound = (pod.get("spec") or {}).get("nodeName", "") if pod is not None else node
            if bound != node:
                what = "update pod status for" if info.subresource == "status" else f"{info.verb}"
                why = f'node "{node}" can only {what} pods with spec.nodeName set to itself'
                raise errors.forbidden("pods", info.name, why)
