"""What makes pods as tables: replication controllers, replica sets, deployments, revisions."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from podling.api.selectors import format_label_selector
from podling.api.tables.columns import AGE, NAME, NONE, Cells, Object, Table, age, column, metadata, name

_CONTAINERS: Final = column("Containers", "Names of each container in the template.", wide=True)
_IMAGES: Final = column("Images", "Images referenced by each container in the template.", wide=True)
_SELECTOR: Final = column("Selector", "selector is a label query over pods this controls.", wide=True)


def _spec(obj: Object) -> Object:
    found: Object = obj.get("spec") or {}
    return found


def _status(obj: Object) -> Object:
    found: Object = obj.get("status") or {}
    return found


def _template_cells(obj: Object) -> list[str]:
    """Names and images of the template's containers, and the selector."""
    spec = _spec(obj)
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or ()
    selector = spec.get("selector") or {}
    if obj.get("kind") == "ReplicationController":
        selector = {"matchLabels": selector}
    return [
        ",".join(c.get("name", "") for c in containers),
        ",".join(c.get("image", "") for c in containers),
        format_label_selector(selector) or NONE,
    ]


def _replica_cells(obj: Object, now: datetime) -> Cells:
    status = _status(obj)
    return [
        name(obj),
        _spec(obj).get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age(obj, now),
        *_template_cells(obj),
    ]


REPLICA_SETS: Final = Table(
    columns=(
        NAME,
        column("Desired", "replicas is the number of desired pods.", type_="integer"),
        column("Current", "replicas is the most recently observed number of pods.", type_="integer"),
        column("Ready", "The number of ready replicas for this replica set.", type_="integer"),
        AGE,
        _CONTAINERS,
        _IMAGES,
        _SELECTOR,
    ),
    cells=_replica_cells,
)
REPLICATION_CONTROLLERS: Final = REPLICA_SETS


def _deployment_cells(obj: Object, now: datetime) -> Cells:
    status = _status(obj)
    return [
        name(obj),
        f"{status.get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(obj, now),
        *_template_cells(obj),
    ]


DEPLOYMENTS: Final = Table(
    columns=(
        NAME,
        column("Ready", "Number of the pod with ready state"),
        column(
            "Up-to-date",
            "Total number of non-terminated pods targeted by this deployment that have the desired template "
            "spec.",
        ),
        column(
            "Available",
            "Total number of available pods (ready for at least minReadySeconds) targeted by this "
            "deployment.",
        ),
        AGE,
        _CONTAINERS,
        _IMAGES,
        _SELECTOR,
    ),
    cells=_deployment_cells,
)


def _revision_cells(obj: Object, now: datetime) -> Cells:
    owners = metadata(obj).get("ownerReferences") or ()
    owner = next((o for o in owners if o.get("controller")), None)
    shown = NONE
    if owner:
        group = owner.get("apiVersion", "").rpartition("/")[0]
        kind = owner.get("kind", "").lower()
        shown = f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"
    return [name(obj), shown, obj.get("revision", 0), age(obj, now)]


CONTROLLER_REVISIONS: Final = Table(
    columns=(
        NAME,
        column("Controller", "Controller of the object"),
        column("Revision", "Revision indicates the revision of the state represented by Data."),
        AGE,
    ),
    cells=_revision_cells,
)
