"""The arithmetic of a deployment: which replica set should have how many pods, as pure functions.

Nothing here asks or changes anything: it takes a deployment and its replica sets as last seen and says
the sizes wanted next, so that a rollout is a series of small steps, each decided anew.

Source: Kubernetes concepts, "Deployments"; pkg/controller/deployment/{rolling,sync}.go, util/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import structs

from podling.api.apps_v1 import Deployment, DeploymentSpec, ReplicaSet
from podling.api.core_v1 import PodTemplateSpec
from podling.api.intstr import scaled
from podling.api.meta_v1 import ObjectMeta

HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"
REVISION_HISTORY: Final = "deployment.kubernetes.io/revision-history"
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS: Final = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED: Final = frozenset((
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION, REVISION_HISTORY, DESIRED, MAX_REPLICAS,
))  # fmt: skip
_HISTORY_CHARS: Final = 2000
_SAFE: Final = "bcdfghjklmnpqrstvwxz2456789"
"""Letters and digits that make no words (k8s.io/apimachinery/pkg/util/rand)."""
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193

Sizes = dict[str, int]
"""Replicas by name of the replica set; those not named stay as they are."""


def spec_of(deployment: Deployment) -> DeploymentSpec:
    return deployment.spec or DeploymentSpec()


def wanted(deployment: Deployment) -> int:
    replicas = spec_of(deployment).replicas
    return 1 if replicas is None else replicas


def replicas(rs: ReplicaSet) -> int:
    return (rs.spec.replicas if rs.spec else None) or 0


def actual(rs: ReplicaSet) -> int:
    return rs.status.replicas if rs.status else 0


def available(rs: ReplicaSet) -> int:
    return (rs.status.available_replicas if rs.status else None) or 0


def by_age(sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """Oldest first."""
    return sorted(sets, key=lambda rs: (rs.metadata.creation_timestamp or "", rs.metadata.name or ""))


def revision(annotations: Mapping[str, str]) -> int:
    text = annotations.get(REVISION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


# Templates


def template_hash(template: PodTemplateSpec, collisions: int) -> str:
    """A short name for the template. Differs from upstream: the hash is over our own encoding."""
    text = msgspec.json.encode(template, order="sorted") + (str(collisions).encode() if collisions else b"")
    value = _FNV_OFFSET
    for byte in text:
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(value))


def without_hash(template: PodTemplateSpec | None) -> PodTemplateSpec | None:
    if template is None or template.metadata is None or HASH_LABEL not in template.metadata.labels:
        return template
    labels = {key: value for key, value in template.metadata.labels.items() if key != HASH_LABEL}
    return structs.replace(template, metadata=structs.replace(template.metadata, labels=labels))


def with_hash(template: PodTemplateSpec, value: str) -> PodTemplateSpec:
    meta = template.metadata or ObjectMeta()
    labels = {**meta.labels, HASH_LABEL: value}
    return structs.replace(template, metadata=structs.replace(meta, labels=labels))


def find_new(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """The oldest replica set that has the deployment's template."""
    template = without_hash(spec_of(deployment).template)
    for rs in by_age(sets):
        if rs.spec is not None and without_hash(rs.spec.template) == template:
            return rs
    return None


# Limits


def fenceposts(deployment: Deployment) -> tuple[int, int]:
    """How many pods there may be more than wanted, and how many fewer available: surge, unavailable."""
    strategy = spec_of(deployment).strategy
    if strategy is None or strategy.type != "RollingUpdate" or strategy.rolling_update is None:
        return 0, 0
    total, rolling = wanted(deployment), strategy.rolling_update
    surge = scaled(rolling.max_surge, total, round_up=True)
    unavailable = scaled(rolling.max_unavailable, total, round_up=False)
    # Validation refuses two zeroes, but small percentages of few pods round to them: it must move.
    return surge, min(unavailable, total) if surge or unavailable else min(1, total)


def is_rolling(deployment: Deployment) -> bool:
    strategy = spec_of(deployment).strategy
    return strategy is not None and strategy.type == "RollingUpdate"


def new_size(deployment: Deployment, sets: Sequence[ReplicaSet], current: int) -> int:
    """The size the new replica set may have next, of all `sets` (itself included) as they are."""
    target = wanted(deployment)
    if not is_rolling(deployment) or current > target:
        return target
    surge, _ = fenceposts(deployment)
    room = target + surge - sum(map(replicas, sets))
    return current if room <= 0 else current + min(room, target - current)


def shrink_old(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> Sizes:
    """Sizes of the old replica sets that keep enough pods available: pods that are not go first."""
    sizes = {rs.metadata.name or "": replicas(rs) for rs in old}
    if not sum(sizes.values()):
        return {}
    _, max_unavailable = fenceposts(deployment)
    least = wanted(deployment) - max_unavailable
    new_replicas, new_available = (replicas(new), available(new)) if new else (0, 0)
    spare = sum(sizes.values()) + new_replicas - least - (new_replicas - new_available)
    if spare <= 0:
        return {}
    for rs in by_age(old):
        name = rs.metadata.name or ""
        sick = min(spare, max(0, sizes[name] - available(rs)))
        sizes[name] -= sick
        spare -= sick
    spare = sum(map(available, old)) + new_available - least
    for rs in by_age(old):
        name = rs.metadata.name or ""
        gone = max(0, min(spare, sizes[name]))
        sizes[name] -= gone
        spare -= gone
    return {rs.metadata.name or "": s for rs in old if (s := sizes[rs.metadata.name or ""]) != replicas(rs)}


# Scaling outside of a rollout


def was_scaled(deployment: Deployment, sets: Iterable[ReplicaSet]) -> bool:
    """Whether `replicas` changed since its replica sets were sized."""
    for rs in sets:
        desired = rs.metadata.annotations.get(DESIRED, "")
        if replicas(rs) and desired.isdigit() and int(desired) != wanted(deployment):
            return True
    return False


def scale_sizes(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> Sizes:
    """Sizes when only the number of replicas changed: in proportion, when several sets have pods."""
    everything = [*old, *([new] if new else [])]
    active = [rs for rs in everything if replicas(rs)]
    if len(active) <= 1:
        only = active[0] if active else new or (by_age(old)[-1] if old else None)
        return {only.metadata.name or "": wanted(deployment)} if only else {}
    if new is not None and _is_saturated(deployment, new):
        return {rs.metadata.name or "": 0 for rs in old if replicas(rs)}
    return _proportional(deployment, active) if is_rolling(deployment) else {}


def _is_saturated(deployment: Deployment, new: ReplicaSet) -> bool:
    target = wanted(deployment)
    return new.metadata.annotations.get(DESIRED) == str(target) == str(replicas(new)) == str(available(new))


def _proportional(deployment: Deployment, active: list[ReplicaSet]) -> Sizes:
    target = wanted(deployment)
    allowed = target + fenceposts(deployment)[0] if target else 0
    to_add = allowed - sum(map(replicas, active))
    # The largest first; among equals the newest grows and the oldest shrinks first.
    active = by_age(active)
    if to_add > 0:
        active.reverse()
    active.sort(key=replicas, reverse=True)
    sizes: Sizes = {}
    added = 0
    for rs in active:
        part = _fraction(deployment, rs) if to_add and replicas(rs) else 0
        left = to_add - added
        part = min(part, left) if to_add > 0 else max(part, left)
        sizes[rs.metadata.name or ""] = replicas(rs) + part
        added += part
    if to_add:
        first = active[0].metadata.name or ""
        sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _fraction(deployment: Deployment, rs: ReplicaSet) -> int:
    target = wanted(deployment)
    if not target:
        return -replicas(rs)
    annotated = rs.metadata.annotations.get(MAX_REPLICAS, "")
    status = deployment.status
    before = int(annotated) if annotated.isdigit() else (status.replicas if status else None) or 0
    if not before:
        return 0
    size = replicas(rs) * (target + fenceposts(deployment)[0]) / before
    return math.floor(size + 0.5) - replicas(rs)


# Annotations


def set_annotations(
    deployment: Deployment, current: Mapping[str, str], number: int, *, exists: bool
) -> dict[str, str]:
    """Annotations of the new replica set, `current` ones included, at revision `number`."""
    found = dict(current)
    found.update({k: v for k, v in deployment.metadata.annotations.items() if k not in _NOT_COPIED})
    before = current.get(REVISION, "")
    if revision(current) < number:
        found[REVISION] = str(number)
        if before and exists:
            history = [*filter(None, current.get(REVISION_HISTORY, "").split(",")), before]
            while len(",".join(history)) > _HISTORY_CHARS:
                history.pop(0)
            found[REVISION_HISTORY] = ",".join(history)
    if not exists:
        found |= replica_annotations(deployment)
    return found


def replica_annotations(deployment: Deployment) -> dict[str, str]:
    """What tells, later, the size the deployment had when its replica sets were sized."""
    target = wanted(deployment)
    return {DESIRED: str(target), MAX_REPLICAS: str(target + fenceposts(deployment)[0])}


def to_forget(deployment: Deployment, old: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """Old replica sets beyond the history limit, all of them empty."""
    limit = spec_of(deployment).revision_history_limit
    kept = [rs for rs in old if rs.metadata.deletion_timestamp is None]
    if limit is None or len(kept) <= limit:
        return []
    oldest = sorted(kept, key=lambda rs: revision(rs.metadata.annotations))[: len(kept) - limit]
    return [
        rs
        for rs in oldest
        if not replicas(rs)
        and not actual(rs)
        and (rs.metadata.generation or 0) <= ((rs.status.observed_generation if rs.status else None) or 0)
    ]
