"""Objects as the tables that `kubectl get` prints.

The server makes the cells, kubectl prints them; columns of priority 1 appear with `-o wide`. A kind
without a table of its own has its name and age. A kind is one Table and a line below.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from podling.api.tables.certificates import SIGNING_REQUESTS
from podling.api.tables.columns import Object, Table
from podling.api.tables.network import ENDPOINT_SLICES, ENDPOINTS, NETWORK_POLICIES, SERVICES
from podling.api.tables.nodes import NODES
from podling.api.tables.others import (
    ANY,
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from podling.api.tables.persistent import CLAIMS, PERSISTENT_VOLUMES
from podling.api.tables.pods import PODS, Summary, summarize
from podling.api.tables.rbac import BINDINGS, ROLES
from podling.api.tables.workloads import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
)

__all__ = ["Summary", "columns", "row_cells", "summarize"]

_TABLES: Final[dict[str, Table]] = {
    "CertificateSigningRequest": SIGNING_REQUESTS,
    "ClusterRole": ROLES,
    "ClusterRoleBinding": BINDINGS,
    "ConfigMap": CONFIG_MAPS,
    "ControllerRevision": CONTROLLER_REVISIONS,
    "Deployment": DEPLOYMENTS,
    "EndpointSlice": ENDPOINT_SLICES,
    "Endpoints": ENDPOINTS,
    "Event": EVENTS,
    "Lease": LEASES,
    "Namespace": NAMESPACES,
    "NetworkPolicy": NETWORK_POLICIES,
    "Node": NODES,
    "PersistentVolume": PERSISTENT_VOLUMES,
    "PersistentVolumeClaim": CLAIMS,
    "Pod": PODS,
    "ReplicaSet": REPLICA_SETS,
    "ReplicationController": REPLICATION_CONTROLLERS,
    "Role": ROLES,
    "RoleBinding": BINDINGS,
    "Secret": SECRETS,
    "Service": SERVICES,
    "ServiceAccount": SERVICE_ACCOUNTS,
}


def columns(kind: str) -> list[dict[str, Any]]:
    """Return the column definitions of a kind, as a Table of meta.k8s.io/v1 has them."""
    return [dict(column) for column in _TABLES.get(kind, ANY).columns]


def row_cells(kind: str, obj: Object, now: datetime) -> list[Any]:
    """Return the cells of one object, in the order of the columns; ages are as of `now` (aware)."""
    return _TABLES.get(kind, ANY).cells(obj, now)
