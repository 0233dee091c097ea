"""Every pod runs as a service account and finds its token where clients look for it.

Upstream's ServiceAccount admission: the account must exist; its pull secrets become the pod's; unless the
pod or the account says no, a projected volume with token, CA and namespace is mounted into every container
(Kubernetes documentation, "Configure Service Accounts for Pods").
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from podling.api.names import generate_name
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object, from_entry

DEFAULT_ACCOUNT: Final = "default"
MOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX: Final = "kube-api-access-"
TOKEN_LIFETIME_S: Final = 3607
DEFAULT_MODE: Final = 0o644
WAIT_STEP_S: Final = 0.02
WAIT_STEPS: Final = 75
"""A new namespace gets its default account from a controller: a create right behind it waits this often."""
_MIRROR: Final = "kubernetes.io/config.mirror"


async def admit(cluster: Cluster, namespace: str, pod: Object) -> None:
    """Complete `pod` in place. Raises APIError 403."""
    spec: dict[str, Any] = pod.get("spec") or {}
    if _MIRROR in (pod["metadata"].get("annotations") or {}):
        # A kubelet runs it whatever we say: it must not need anything of us.
        return
    name = spec.get("serviceAccountName") or DEFAULT_ACCOUNT
    account = await _account(cluster, namespace, name)
    if account is None:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise errors.forbidden("pods", pod["metadata"].get("name") or "", why)
    if pull_secrets := account.get("imagePullSecrets"):
        spec.setdefault("imagePullSecrets", pull_secrets)
    if cluster.tokens is not None and _wants_token(spec, account):
        _mount_token(spec)


async def _account(cluster: Cluster, namespace: str, name: str) -> Object | None:
    for _ in range(WAIT_STEPS if name == DEFAULT_ACCOUNT else 1):
        entry = await cluster.store.newest(f"serviceaccounts/{namespace}/{name}")
        if entry is not None:
            return from_entry(entry)
        await asyncio.sleep(WAIT_STEP_S)
    return None


def _wants_token(spec: dict[str, Any], account: Object) -> bool:
    for says in (spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")):
        if says is not None:
            return bool(says)
    return True


def _mount_token(spec: dict[str, Any]) -> None:
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    lacking = [
        container
        for container in containers
        if all(mount.get("mountPath") != MOUNT_PATH for mount in container.get("volumeMounts") or ())
    ]
    if not lacking:
        return
    volumes = spec.setdefault("volumes", [])
    # A template that was made from a pod brings the volume along.
    name = next((v["name"] for v in volumes if v.get("name", "").startswith(VOLUME_PREFIX)), "")
    if not name:
        name = generate_name(VOLUME_PREFIX)
        volumes.append(_token_volume(name))
    for container in lacking:
        mounts = container.get("volumeMounts") or []
        container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}]


def _token_volume(name: str) -> dict[str, Any]:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_LIFETIME_S, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": DEFAULT_MODE}}
