"""Whether an object may be stored, and if not, every reason why, in Kubernetes' words.

`validate_create` and `validate_update` look at one object (and what it was) after decoding and
defaulting; they change nothing and ask nobody. A kind is two functions in one of the modules here and
a line in the table below. The order of faults is upstream's where people see it: metadata, volumes,
containers, the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from podling.api import names
from podling.api.validation.certificates import check_csr, check_csr_update
from podling.api.validation.config import (
    check_config_map,
    check_config_map_update,
    check_secret,
    check_secret_update,
)
from podling.api.validation.faults import Faults, FieldError, Object
from podling.api.validation.meta import check_metadata
from podling.api.validation.networking import check_network_policy, check_network_policy_update
from podling.api.validation.node import check_node, check_node_update
from podling.api.validation.persistent import (
    check_claim,
    check_claim_update,
    check_persistent_volume,
    check_persistent_volume_update,
)
from podling.api.validation.pod import check_pod, check_pod_update
from podling.api.validation.rbac import (
    check_cluster_role,
    check_cluster_role_binding,
    check_cluster_role_binding_update,
    check_cluster_role_update,
    check_role,
    check_role_binding,
    check_role_binding_update,
    check_role_update,
)
from podling.api.validation.service import (
    check_endpoint_slice,
    check_endpoint_slice_update,
    check_endpoints,
    check_endpoints_update,
    check_service,
    check_service_update,
)
from podling.api.validation.small import (
    check_any_update,
    check_event,
    check_lease,
    check_lease_update,
    check_namespace,
    check_service_account,
)
from podling.api.validation.workloads import (
    check_controller_revision,
    check_controller_revision_update,
    check_deployment,
    check_deployment_update,
    check_replica_set,
    check_replica_set_update,
    check_replication_controller,
    check_replication_controller_update,
)

__all__ = ["FieldError", "validate_create", "validate_update"]

_CREATE: Final[dict[str, Callable[[Object, Faults], None]]] = {
    "CertificateSigningRequest": check_csr,
    "ClusterRole": check_cluster_role,
    "ClusterRoleBinding": check_cluster_role_binding,
    "ConfigMap": check_config_map,
    "ControllerRevision": check_controller_revision,
    "Deployment": check_deployment,
    "EndpointSlice": check_endpoint_slice,
    "Endpoints": check_endpoints,
    "Event": check_event,
    "Lease": check_lease,
    "Namespace": check_namespace,
    "NetworkPolicy": check_network_policy,
    "Node": check_node,
    "PersistentVolume": check_persistent_volume,
    "PersistentVolumeClaim": check_claim,
    "Pod": check_pod,
    "ReplicaSet": check_replica_set,
    "ReplicationController": check_replication_controller,
    "Role": check_role,
    "RoleBinding": check_role_binding,
    "Secret": check_secret,
    "Service": check_service,
    "ServiceAccount": check_service_account,
}
_UPDATE: Final[dict[str, Callable[[Object, Object, Faults], None]]] = {
    "CertificateSigningRequest": check_csr_update,
    "ClusterRole": check_cluster_role_update,
    "ClusterRoleBinding": check_cluster_role_binding_update,
    "ConfigMap": check_config_map_update,
    "ControllerRevision": check_controller_revision_update,
    "Deployment": check_deployment_update,
    "EndpointSlice": check_endpoint_slice_update,
    "Endpoints": check_endpoints_update,
    "Lease": check_lease_update,
    "NetworkPolicy": check_network_policy_update,
    "Node": check_node_update,
    "PersistentVolume": check_persistent_volume_update,
    "PersistentVolumeClaim": check_claim_update,
    "ReplicaSet": check_replica_set_update,
    "ReplicationController": check_replication_controller_update,
    "Role": check_role_update,
    "RoleBinding": check_role_binding_update,
    "Secret": check_secret_update,
    "Service": check_service_update,
}


def validate_create(kind: str, obj: Object) -> list[FieldError]:
    """Return all that is wrong with a new object, nothing if it may be stored."""
    faults: Faults = []
    check = _CREATE.get(kind)
    if check is not None:
        check(obj, faults)
    else:
        metadata = obj.get("metadata", {})
        check_metadata(metadata, names.check_subdomain, faults, namespaced="namespace" in metadata)
    return faults


def validate_update(kind: str, new: Object, old: Object, subresource: str = "") -> list[FieldError]:
    """Return all that is wrong with changing `old` into `new`.

    `subresource` is empty for the object itself, else what is written (status, binding, ...): for it
    other fields may change.
    """
    faults: Faults = []
    if kind == "Pod":
        check_pod_update(new, old, subresource, faults)
    else:
        _UPDATE.get(kind, check_any_update)(new, old, faults)
    return faults
