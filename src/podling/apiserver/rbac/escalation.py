"""Nobody hands on more than they have.

Whoever writes a role must hold all it gives, or the verb `escalate` on it; whoever binds one must hold all
it gives, or the verb `bind` (Kubernetes documentation, "Privilege escalation prevention and bootstrapping").
"""

from __future__ import annotations

from typing import Any

import msgspec

from podling.api.rbac_v1 import PolicyRule
from podling.apiserver import authz, errors
from podling.apiserver.objects import Object
from podling.apiserver.rbac.bindings import GROUP, Bindings
from podling.apiserver.rbac.rules import allows, describe, uncovered
from podling.apiserver.request import User
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Guard


async def role_guard(bindings: Bindings, user: User, plural: str, namespace: str) -> Guard | None:
    """What checks a role that `user` writes; None for who may write any."""
    if authz.unrestricted(user):
        return None
    held = await bindings.rules_of(user, namespace)

    def check(new: Object, old: Object | None) -> None:
        name = new["metadata"].get("name") or ""
        if old is not None and old.get("rules") == new.get("rules"):
            return
        if not _may(held, "escalate", plural, namespace, name):
            wanted = msgspec.convert(new.get("rules") or [], list[PolicyRule])
            _refuse_uncovered(held, wanted, user, plural, name)

    return check


async def binding_guard(bindings: Bindings, user: User, plural: str, namespace: str) -> Guard | None:
    """What checks a binding that `user` writes; None for who may write any."""
    if authz.unrestricted(user):
        return None
    held = await bindings.rules_of(user, namespace)
    behind = await bindings.roles(namespace)

    def check(new: Object, old: Object | None) -> None:
        if old is not None and all(old.get(f) == new.get(f) for f in ("roleRef", "subjects")):
            return
        reference: dict[str, Any] = new.get("roleRef") or {}
        kind, role = reference.get("kind") or "", reference.get("name") or ""
        roles = "clusterroles" if kind == "ClusterRole" else "roles"
        if not _may(held, "bind", roles, namespace, role):
            wanted = behind.get((kind, role), [])
            _refuse_uncovered(held, wanted, user, plural, new["metadata"].get("name") or "")

    return check


def _may(held: list[PolicyRule], verb: str, plural: str, namespace: str, name: str) -> bool:
    info = RequestInfo(
        path="", verb=verb, group=GROUP, version="v1", resource=plural, namespace=namespace, name=name
    )
    return any(allows(rule, info) for rule in held)


def _refuse_uncovered(
    held: list[PolicyRule], wanted: list[PolicyRule], user: User, plural: str, name: str
) -> None:
    missing = uncovered(held, wanted)
    if not missing:
        return
    groups = " ".join(f'"{group}"' for group in user.groups)
    who = f'user "{user.name}" (groups=[{groups}])'
    why = f"{who} is attempting to grant RBAC permissions not currently held:\n"
    why += "\n".join(map(describe, missing))
    raise errors.forbidden(f"{plural}.{GROUP}", name, why)
