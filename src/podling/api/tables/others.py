"""Tables of a few columns: namespaces, events, configuration, accounts, leases."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from podling.api.tables.columns import AGE, NAME, Cells, Object, Table, age, column, name, since


def _namespace_cells(namespace: Object, now: datetime) -> Cells:
    return [name(namespace), (namespace.get("status") or {}).get("phase", ""), age(namespace, now)]


NAMESPACES: Final = Table(
    columns=(NAME, column("Status", "The status of the namespace"), AGE), cells=_namespace_cells
)


def _config_map_cells(obj: Object, now: datetime) -> Cells:
    return [name(obj), len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), age(obj, now)]


CONFIG_MAPS: Final = Table(
    columns=(NAME, column("Data", "Data contains the configuration data."), AGE), cells=_config_map_cells
)


def _secret_cells(secret: Object, now: datetime) -> Cells:
    return [name(secret), secret.get("type", ""), len(secret.get("data") or ()), age(secret, now)]


SECRETS: Final = Table(
    columns=(
        NAME,
        column("Type", "Used to facilitate programmatic handling of secret data."),
        column("Data", "Data contains the secret data."),
        AGE,
    ),
    cells=_secret_cells,
)


def _account_cells(account: Object, now: datetime) -> Cells:
    return [name(account), len(account.get("secrets") or ()), age(account, now)]


SERVICE_ACCOUNTS: Final = Table(
    columns=(
        NAME,
        column(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this "
            "ServiceAccount are allowed to use.",
        ),
        AGE,
    ),
    cells=_account_cells,
)


def _lease_cells(lease: Object, now: datetime) -> Cells:
    return [name(lease), (lease.get("spec") or {}).get("holderIdentity", ""), age(lease, now)]


LEASES: Final = Table(
    columns=(
        NAME,
        column("Holder", "holderIdentity contains the identity of the holder of a current lease."),
        AGE,
    ),
    cells=_lease_cells,
)


def _event_cells(event: Object, now: datetime) -> Cells:
    first = event.get("firstTimestamp") or event.get("eventTime")
    last = event.get("lastTimestamp") or first
    # An event of the newer API that happened once has no count.
    count = event.get("count") or 1
    series = event.get("series")
    if series:
        last, count = series.get("lastObservedTime") or last, series.get("count") or count
    involved = event.get("involvedObject") or {}
    kind = involved.get("kind", "").lower()
    return [
        since(last, now),
        event.get("type", ""),
        event.get("reason", ""),
        f"{kind}/{involved['name']}" if involved.get("name") else kind,
        involved.get("fieldPath", ""),
        _source(event),
        (event.get("message") or "").strip(),
        since(first, now),
        count,
        name(event),
    ]


def _source(event: Object) -> str:
    source = event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent") or ""
    instance = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {instance}" if instance else component


EVENTS: Final = Table(
    columns=(
        column("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
        column("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
        column("Reason", "The reason for the transition into the object's current status."),
        column("Object", "The object that this event is about."),
        column(
            "Subobject",
            "If referring to a piece of an object instead of an entire object, this string names it.",
            wide=True,
        ),
        column("Source", "The component reporting this event.", wide=True),
        column("Message", "A human-readable description of the status of this operation."),
        column("First Seen", "The time at which the event was first recorded.", wide=True),
        column("Count", "The number of times this event has occurred.", wide=True),
        column(NAME["name"], NAME["description"], format_="name", wide=True),
    ),
    cells=_event_cells,
)


def _any_cells(obj: Object, now: datetime) -> Cells:
    return [name(obj), age(obj, now)]


ANY: Final = Table(columns=(NAME, AGE), cells=_any_cells)
