"""What Kubernetes 1.37 fills in where a client says nothing.

`apply_defaults` changes a decoded JSON object in place (see `podling.api.schema`: quantities are
canonical by then). It does the work of the versioned defaults and, for pods, of the admission plugins
that are always on: ServiceAccount (its name), DefaultTolerationSeconds, Priority. Applying twice
changes nothing. What needs other objects or allocation (cluster IPs, token volumes) is the API
server's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from podling.api.pods import qos_class_of as qos_class
from podling.api.quantity import format_decimal, format_milli, parse_quantity, to_milli

__all__ = ["apply_defaults", "default_pod_spec", "initial_status", "pull_policy", "qos_class"]

Object = dict[str, Any]

_FILE_MODE: Final = 0o644
_NODE_TAINTS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATION_SECONDS: Final = 300
_CLIENT_IP_TIMEOUT_SECONDS: Final = 10_800
_TOKEN_EXPIRATION_SECONDS: Final = 3600
_ROLLING_SHARE: Final = "25%"
_REVISION_HISTORY: Final = 10
_PROGRESS_DEADLINE_SECONDS: Final = 600


def apply_defaults(kind: str, obj: Object) -> None:
    """Fill in the defaults of a kind, in place; kinds without any are left alone."""
    apply = _DEFAULTS.get(kind)
    if apply is not None:
        apply(obj)


def initial_status(kind: str, obj: Object) -> Object | None:
    """Return the status that a new object has, None where it has none of its own."""
    match kind:
        case "Pod":
            return {"phase": "Pending", "qosClass": qos_class(obj)}
        case "Namespace":
            return {"phase": "Active"}
        case "PersistentVolume" | "PersistentVolumeClaim":
            return {"phase": "Pending"}
        case "ReplicaSet" | "ReplicationController":
            return {"replicas": 0}
        case "Service":
            return {"loadBalancer": {}}
        case _:
            return None


# Pods


def _pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    default_pod_spec(spec)
    for container in _containers(spec):
        _requests_from_limits(container.setdefault("resources", {}))
    _pod_level_resources(spec)
    spec.setdefault("enableServiceLinks", True)
    if spec.get("hostNetwork"):
        for container in _containers(spec):
            for port in container.get("ports", ()):
                if not port.get("hostPort"):
                    port["hostPort"] = port.get("containerPort", 0)
    _admit_pod(spec, static=_is_static(obj))


def default_pod_spec(spec: Object) -> None:
    """Fill in the defaults that a pod shares with the pod templates of other kinds."""
    _set(spec, "dnsPolicy", "ClusterFirst")
    _set(spec, "restartPolicy", "Always")
    _set(spec, "schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    # The old name goes with the new one, as conversion in Kubernetes has it.
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for volume in spec.get("volumes", ()):
        _volume(volume)
    for container in _containers(spec):
        _container(container)
    for container in spec.get("ephemeralContainers", ()):
        _container(container)
    for constraint in spec.get("topologySpreadConstraints", ()):
        constraint.setdefault("nodeAffinityPolicy", "Honor")
        constraint.setdefault("nodeTaintsPolicy", "Ignore")


def _is_static(obj: Object) -> bool:
    """A static pod, or the mirror of one."""
    annotations = (obj.get("metadata") or {}).get("annotations") or {}
    source = annotations.get("kubernetes.io/config.source", "api")
    return "kubernetes.io/config.mirror" in annotations or source != "api"


def _admit_pod(spec: Object, *, static: bool) -> None:
    # Upstream's admission leaves mirror pods alone: a static pod has no service account.
    if not spec.get("serviceAccountName") and not static:
        spec["serviceAccountName"] = spec["serviceAccount"] = "default"
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.get("tolerations") or []
    missing = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_SECONDS}
        for key in _NODE_TAINTS
        if not any(
            t.get("key") in (key, "", None) and t.get("effect") in ("NoExecute", "", None)
            for t in tolerations
        )
    ]
    if missing:
        spec["tolerations"] = [*tolerations, *missing]


def _containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def _container(container: Object) -> None:
    _set(container, "terminationMessagePath", "/dev/termination-log")
    _set(container, "terminationMessagePolicy", "File")
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image", ""))
    resources = container.setdefault("resources", {})
    for amounts in (resources.get("limits"), resources.get("requests")):
        if amounts:
            _round_to_milli(amounts)
    for port in container.get("ports", ()):
        _set(port, "protocol", "TCP")
    for variable in container.get("env", ()):
        source = variable.get("valueFrom")
        if source:
            _downward(source)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is not None:
            _probe(probe)
    lifecycle = container.get("lifecycle") or {}
    for name in ("postStart", "preStop"):
        if "httpGet" in lifecycle.get(name, ()):
            _http_get(lifecycle[name]["httpGet"])


def pull_policy(image: str) -> str:
    """Return Always for an image whose tag is `latest` or left out, else IfNotPresent."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag == "latest" or not (tag or digest) else "IfNotPresent"


def _probe(probe: Object) -> None:
    for name, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        _set(probe, name, value)
    if "httpGet" in probe:
        _http_get(probe["httpGet"])
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _http_get(action: Object) -> None:
    _set(action, "path", "/")
    _set(action, "scheme", "HTTP")


def _downward(source: Object) -> None:
    if "fieldRef" in source:
        _set(source["fieldRef"], "apiVersion", "v1")
    if "resourceFieldRef" in source:
        source["resourceFieldRef"].setdefault("divisor", "0")


def _requests_from_limits(resources: Object) -> None:
    limits = resources.get("limits")
    if limits:
        resources["requests"] = {**limits, **resources.get("requests", {})}


def _round_to_milli(amounts: Object) -> None:
    for name, amount in amounts.items():
        # Finer than a thousandth: only these suffixes can be, in canonical text.
        if amount.endswith(("n", "u", "e-9", "e-6")):
            amounts[name] = format_milli(to_milli(amount))


def _pod_level_resources(spec: Object) -> None:
    """Fill in requests of the pod as a whole where only its limits are given."""
    resources = spec.get("resources")
    limits = (resources or {}).get("limits")
    if not resources or not limits:
        return
    requests = resources.setdefault("requests", {})
    for name in ("cpu", "memory"):
        amounts = [c["resources"].get("requests", {}).get(name) for c in spec.get("containers", ())]
        given = [parse_quantity(amount) for amount in amounts if amount]
        if name not in requests and given:
            requests[name] = format_decimal(sum(given, Decimal(0)))
    for name, limit in limits.items():
        requests.setdefault(name, limit)


# Volumes


def _volume(volume: Object) -> None:
    if len(volume) == 1 and "name" in volume:
        volume["emptyDir"] = {}
    for name in ("configMap", "secret", "downwardAPI", "projected"):
        source = volume.get(name)
        if source is not None:
            source.setdefault("defaultMode", _FILE_MODE)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    for item in volume.get("downwardAPI", {}).get("items", ()):
        _downward(item)
    for projection in volume.get("projected", {}).get("sources", ()):
        for item in projection.get("downwardAPI", {}).get("items", ()):
            _downward(item)
        if "serviceAccountToken" in projection:
            projection["serviceAccountToken"].setdefault("expirationSeconds", _TOKEN_EXPIRATION_SECONDS)
    image = volume.get("image")
    if image is not None and not image.get("pullPolicy"):
        image["pullPolicy"] = pull_policy(image.get("reference", ""))


# Kinds that make pods


def _replication_controller(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _template(spec)
    labels = (spec.get("template", {}).get("metadata") or {}).get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("labels"):
            metadata["labels"] = dict(labels)


def _replica_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _template(spec)


def _deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    _set(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", _ROLLING_SHARE)
        rolling.setdefault("maxSurge", _ROLLING_SHARE)
    spec.setdefault("revisionHistoryLimit", _REVISION_HISTORY)
    spec.setdefault("progressDeadlineSeconds", _PROGRESS_DEADLINE_SECONDS)
    _template(spec)


def _template(spec: Object) -> None:
    template = spec.get("template")
    if template:
        default_pod_spec(template.setdefault("spec", {}))


# Other kinds


def _endpoint_slice(obj: Object) -> None:
    for port in obj.get("ports", ()):
        port.setdefault("name", "")
        _set(port, "protocol", "TCP")


def _persistent_volume(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, "persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")
    _set(obj.setdefault("status", {}), "phase", "Pending")


def _persistent_volume_claim(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    _set(obj.setdefault("status", {}), "phase", "Pending")


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, "type", "ClusterIP")
    _set(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client_ip = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client_ip.setdefault("timeoutSeconds", _CLIENT_IP_TIMEOUT_SECONDS)
    for port in spec.get("ports", ()):
        _set(port, "protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] == "ExternalName":
        return
    external = spec["type"] in ("NodePort", "LoadBalancer") or spec.get("externalIPs")
    if external:
        _set(spec, "externalTrafficPolicy", "Cluster")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("ipFamilies", ["IPv6" if ":" in spec.get("clusterIP", "") else "IPv4"])
    if spec.get("clusterIP"):
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
    elif spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]


def _endpoints(obj: Object) -> None:
    for subset in obj.get("subsets", ()):
        for port in subset.get("ports", ()):
            _set(port, "protocol", "TCP")


def _namespace(obj: Object) -> None:
    metadata = obj.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    # An update that leaves the list out has emptied it, which only the finalize subresource may do.
    if "deletionTimestamp" not in metadata:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    _set(obj.setdefault("status", {}), "phase", "Active")


def _secret(obj: Object) -> None:
    _set(obj, "type", "Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in plain.items()}
        obj["data"] = {**obj.get("data", {}), **encoded}


def _node(obj: Object) -> None:
    status = obj.get("status")
    if status and "capacity" in status and "allocatable" not in status:
        status["allocatable"] = dict(status["capacity"])


def _set(holder: Object, key: str, value: Any) -> None:
    """Set what is absent or, as Go sees it, zero."""
    if not holder.get(key):
        holder[key] = value


# Network policies


def _network_policy(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                _set(port, "protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]


# RBAC

_RBAC_GROUP: Final = "rbac.authorization.k8s.io"


def _role_binding(obj: Object) -> None:
    if reference := obj.get("roleRef"):
        _set(reference, "apiGroup", _RBAC_GROUP)
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            _set(subject, "apiGroup", _RBAC_GROUP)


_DEFAULTS: Final[dict[str, Callable[[Object], None]]] = {
    "ClusterRoleBinding": _role_binding,
    "Deployment": _deployment,
    "EndpointSlice": _endpoint_slice,
    "Endpoints": _endpoints,
    "Namespace": _namespace,
    "NetworkPolicy": _network_policy,
    "Node": _node,
    "PersistentVolume": _persistent_volume,
    "PersistentVolumeClaim": _persistent_volume_claim,
    "Pod": _pod,
    "ReplicaSet": _replica_set,
    "ReplicationController": _replication_controller,
    "RoleBinding": _role_binding,
    "Secret": _secret,
    "Service": _service,
}
