"""The kinds this server serves: one declaration each.

A further kind is one more `Resource` here: its paths, discovery, storage, watches, patches and selectors
follow. What it does unlike others goes into a `Strategy` (strategies/), its defaults, validation and
table columns into `podling.api`.
"""

from __future__ import annotations

from collections.abc import Mapping

from podling.apiserver.handlers import (
    approval,
    binding,
    create,
    delete,
    deletecollection,
    eviction,
    finalize,
    get,
    log,
    patch,
    reviews,
    scale,
    streams,
    token,
    update,
    watch,
)
from podling.apiserver.handlers import (
    list as list_,
)
from podling.apiserver.rbac.bindings import GROUP as RBAC
from podling.apiserver.resource import READ, Handler, Resource, Subresource
from podling.apiserver.strategies.certificates import CertificateSigningRequestStrategy
from podling.apiserver.strategies.namespace import NamespaceStrategy
from podling.apiserver.strategies.pod import PodStrategy
from podling.apiserver.strategies.rbac import RoleBindingStrategy, RoleStrategy
from podling.apiserver.strategies.service import ServiceStrategy
from podling.apiserver.strategies.simple import (
    EndpointsStrategy,
    EventStrategy,
    GenerationStrategy,
    LeaseStrategy,
    NodeStrategy,
    ServiceAccountStrategy,
)
from podling.apiserver.strategies.workloads import (
    DeploymentStrategy,
    EndpointSliceStrategy,
    ReplicationControllerStrategy,
    StatusStrategy,
)

VERBS: Mapping[str, Handler] = {
    "get": get.handle,
    "list": list_.handle,
    "watch": watch.handle,
    "create": create.handle,
    "update": update.handle,
    "patch": patch.handle,
    "delete": delete.handle,
    "deletecollection": deletecollection.handle,
}
"""What every kind does with a verb, unless its declaration says otherwise."""

_PART = Subresource(verbs={verb: VERBS[verb] for verb in ("get", "patch", "update")})
"""The object itself, of which a write changes a part only."""
_STATUS = _PART

_SCALE = Subresource(
    verbs={"get": scale.handle_get, "patch": scale.handle_patch, "update": scale.handle_update},
    kind="Scale",
    group="autoscaling",
    version="v1",
)


def _stream(handler: Handler, kind: str) -> Subresource:
    # GET is how WebSocket clients ask, POST how SPDY clients do.
    return Subresource(verbs={"create": handler, "get": handler}, kind=kind)


_CORE = (
    Resource(
        kind="Namespace",
        plural="namespaces",
        namespaced=False,
        short_names=("ns",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        strategy=NamespaceStrategy(),
        subresources={"finalize": Subresource(verbs={"update": finalize.handle}), "status": _STATUS},
    ),
    Resource(
        kind="Node",
        plural="nodes",
        namespaced=False,
        short_names=("no",),
        strategy=NodeStrategy(),
        subresources={"status": _STATUS},
    ),
    Resource(
        kind="Pod",
        plural="pods",
        short_names=("po",),
        categories=("all",),
        strategy=PodStrategy(),
        subresources={
            "attach": _stream(streams.handle_attach, "PodAttachOptions"),
            "binding": Subresource(verbs={"create": binding.handle}, kind="Binding"),
            "ephemeralcontainers": _PART,
            "eviction": Subresource(
                verbs={"create": eviction.handle}, kind="Eviction", group="policy", version="v1"
            ),
            "exec": _stream(streams.handle_exec, "PodExecOptions"),
            "log": Subresource(verbs={"get": log.handle}),
            "portforward": _stream(streams.handle_port_forward, "PodPortForwardOptions"),
            "resize": _PART,
            "status": _STATUS,
        },
    ),
    Resource(kind="Binding", plural="bindings", verbs=("create",), handlers={"create": binding.handle}),
    Resource(kind="ConfigMap", plural="configmaps", short_names=("cm",)),
    Resource(kind="Secret", plural="secrets"),
    Resource(
        kind="ServiceAccount",
        plural="serviceaccounts",
        short_names=("sa",),
        strategy=ServiceAccountStrategy(),
        subresources={
            "token": Subresource(
                verbs={"create": token.handle},
                kind="TokenRequest",
                group="authentication.k8s.io",
                version="v1",
            )
        },
    ),
    Resource(
        kind="Service",
        plural="services",
        short_names=("svc",),
        categories=("all",),
        strategy=ServiceStrategy(),
        subresources={"status": _STATUS},
    ),
    Resource(
        kind="ReplicationController",
        plural="replicationcontrollers",
        short_names=("rc",),
        categories=("all",),
        strategy=ReplicationControllerStrategy("ReplicationController"),
        subresources={"scale": _SCALE, "status": _STATUS},
    ),
    Resource(
        kind="PersistentVolume",
        plural="persistentvolumes",
        namespaced=False,
        short_names=("pv",),
        strategy=StatusStrategy("PersistentVolume", generation=False),
        subresources={"status": _STATUS},
    ),
    Resource(
        kind="PersistentVolumeClaim",
        plural="persistentvolumeclaims",
        short_names=("pvc",),
        strategy=StatusStrategy("PersistentVolumeClaim", generation=False),
        subresources={"status": _STATUS},
    ),
    Resource(kind="Endpoints", plural="endpoints", short_names=("ep",), strategy=EndpointsStrategy()),
    Resource(kind="Event", plural="events", short_names=("ev",), strategy=EventStrategy()),
)

_APPS = (
    Resource(
        kind="Deployment",
        plural="deployments",
        group="apps",
        short_names=("deploy",),
        categories=("all",),
        strategy=DeploymentStrategy("Deployment"),
        subresources={"scale": _SCALE, "status": _STATUS},
    ),
    Resource(
        kind="ReplicaSet",
        plural="replicasets",
        group="apps",
        short_names=("rs",),
        categories=("all",),
        strategy=StatusStrategy("ReplicaSet"),
        subresources={"scale": _SCALE, "status": _STATUS},
    ),
    Resource(kind="ControllerRevision", plural="controllerrevisions", group="apps"),
)

_DISCOVERY = (
    Resource(
        kind="EndpointSlice",
        plural="endpointslices",
        group="discovery.k8s.io",
        strategy=EndpointSliceStrategy(),
    ),
)

_CERTIFICATES = (
    Resource(
        kind="CertificateSigningRequest",
        plural="certificatesigningrequests",
        group="certificates.k8s.io",
        namespaced=False,
        short_names=("csr",),
        strategy=CertificateSigningRequestStrategy(),
        subresources={
            "approval": Subresource(
                verbs={"get": get.handle, "patch": approval.handle, "update": approval.handle}
            ),
            "status": _STATUS,
        },
    ),
)

_COORDINATION = (
    Resource(kind="Lease", plural="leases", group="coordination.k8s.io", strategy=LeaseStrategy()),
)


def _review(kind: str, plural: str, group: str, handler: Handler, *, namespaced: bool = False) -> Resource:
    return Resource(
        kind=kind,
        plural=plural,
        group=f"{group}.k8s.io",
        namespaced=namespaced,
        verbs=("create",),
        handlers={"create": handler},
    )


_REVIEWS = (
    _review("SelfSubjectReview", "selfsubjectreviews", "authentication", reviews.handle_self),
    _review("TokenReview", "tokenreviews", "authentication", reviews.handle_token),
    _review(
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "authorization",
        reviews.handle_access,
        namespaced=True,
    ),
    _review(
        "SelfSubjectAccessReview", "selfsubjectaccessreviews", "authorization", reviews.handle_self_access
    ),
    _review("SelfSubjectRulesReview", "selfsubjectrulesreviews", "authorization", reviews.handle_self_rules),
    _review("SubjectAccessReview", "subjectaccessreviews", "authorization", reviews.handle_access),
)

_NETWORKING = (
    Resource(
        kind="NetworkPolicy",
        plural="networkpolicies",
        group="networking.k8s.io",
        short_names=("netpol",),
        strategy=GenerationStrategy(),
    ),
)

_RBAC = (
    Resource(kind="Role", plural="roles", group=RBAC, strategy=RoleStrategy("roles")),
    Resource(
        kind="RoleBinding", plural="rolebindings", group=RBAC, strategy=RoleBindingStrategy("rolebindings")
    ),
    Resource(
        kind="ClusterRole",
        plural="clusterroles",
        group=RBAC,
        namespaced=False,
        strategy=RoleStrategy("clusterroles"),
    ),
    Resource(
        kind="ClusterRoleBinding",
        plural="clusterrolebindings",
        group=RBAC,
        namespaced=False,
        strategy=RoleBindingStrategy("clusterrolebindings"),
    ),
)

# kubectl looks here before it says that a kind does not exist; there are none yet, and none can be made.
_EXTENSIONS = (
    Resource(
        kind="CustomResourceDefinition",
        plural="customresourcedefinitions",
        group="apiextensions.k8s.io",
        namespaced=False,
        short_names=("crd", "crds"),
        verbs=READ,
    ),
)

RESOURCES: tuple[Resource, ...] = (
    *_CORE,
    *_APPS,
    *_CERTIFICATES,
    *_COORDINATION,
    *_DISCOVERY,
    *_REVIEWS,
    *_NETWORKING,
    *_RBAC,
    *_EXTENSIONS,
)


def by_path() -> dict[tuple[str, str, str], Resource]:
    """Every kind by group, version and plural, as its path names it."""
    return {(r.group, r.version, r.plural): r for r in RESOURCES}
