"""Tables of roles and their bindings."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from podling.api.tables.columns import AGE, NAME, Cells, Object, Table, age, column, metadata, name


def _role_cells(role: Object, now: datetime) -> Cells:
    return [name(role), metadata(role).get("creationTimestamp", "")]


ROLES: Final = Table(
    columns=(NAME, column("Created At", AGE["description"], type_="date")), cells=_role_cells
)


def _names(binding: Object, kind: str, show: Callable[[Object], str]) -> str:
    return ", ".join(show(subject) for subject in binding.get("subjects") or () if subject["kind"] == kind)


def _binding_cells(binding: Object, now: datetime) -> Cells:
    ref = binding.get("roleRef") or {}
    return [
        name(binding),
        f"{ref.get('kind', '')}/{ref.get('name', '')}",
        age(binding, now),
        _names(binding, "User", lambda s: str(s["name"])),
        _names(binding, "Group", lambda s: str(s["name"])),
        _names(binding, "ServiceAccount", lambda s: f"{s.get('namespace', '')}/{s['name']}"),
    ]


BINDINGS: Final = Table(
    columns=(
        NAME,
        column("Role", "RoleRef can only reference a ClusterRole in the global namespace."),
        AGE,
        column("Users", "Users in the roleBinding", wide=True),
        column("Groups", "Groups in the roleBinding", wide=True),
        column("ServiceAccounts", "ServiceAccounts in the roleBinding", wide=True),
    ),
    cells=_binding_cells,
)
