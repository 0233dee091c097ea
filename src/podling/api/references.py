"""Which other objects of the API a pod's spec refers to.

Static pods may refer to none: their node runs them without asking the API server, and who may write
their manifests is not who may read secrets (Kubernetes documentation, "Create static Pods").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

ORDER = (
    "serviceaccounts",
    "secrets",
    "configmaps",
    "resourceclaims",
    "persistentvolumeclaims",
    "clustertrustbundles",
)

_VOLUMES = {
    "configMap": "configmaps",
    "secret": "secrets",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims",
}
_PROJECTED = {
    "configMap": "configmaps",
    "secret": "secrets",
    "serviceAccountToken": "serviceaccounts",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "secrets",
}
_SECRET_REFS = ("secretRef", "nodePublishSecretRef", "controllerPublishSecretRef")


def referenced_resources(spec: Object) -> list[str]:
    """Plurals of the kinds the spec refers to, each once, in upstream's order of telling."""
    found = set(_found(spec))
    return [resource for resource in ORDER if resource in found]


def _found(spec: Object) -> Iterator[str]:
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        yield "serviceaccounts"
    if spec.get("imagePullSecrets"):
        yield "secrets"
    if spec.get("resourceClaims"):
        yield "resourceclaims"
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume)
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            yield from _of_container(container)


def _of_volume(volume: Object) -> Iterator[str]:
    for source, value in volume.items():
        if source in _VOLUMES:
            yield _VOLUMES[source]
        elif source == "projected":
            for part in value.get("sources") or ():
                yield from (_PROJECTED[key] for key in part if key in _PROJECTED)
        elif isinstance(value, dict) and any(value.get(ref) for ref in _SECRET_REFS):
            yield "secrets"


def _of_container(container: Object) -> Iterator[str]:
    for source in container.get("envFrom") or ():
        if source.get("configMapRef"):
            yield "configmaps"
        if source.get("secretRef"):
            yield "secrets"
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom") or {}
        if origin.get("configMapKeyRef"):
            yield "configmaps"
        if origin.get("secretKeyRef"):
            yield "secrets"
