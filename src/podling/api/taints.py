"""Taints and tolerations: which pods a node repels.

Kubernetes concepts, "Taints and Tolerations". Used by the scheduler (NoSchedule), the kubelet (at
admission) and the taint eviction controller (NoExecute).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from podling.api.core_v1 import Taint, Toleration


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Say whether one toleration covers one taint; an absent effect or key covers all of them."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator or "Equal":
        case "Equal":
            return (toleration.value or "") == (taint.value or "")
        case "Exists":
            return True
        case "Gt" | "Lt":
            return _compares(toleration, taint)
        case _:
            return False


def _compares(toleration: Toleration, taint: Taint) -> bool:
    try:
        limit, value = int(toleration.value or ""), int(taint.value or "")
    except ValueError:
        return False
    return value > limit if toleration.operator == "Gt" else value < limit


def find_untolerated(
    taints: Iterable[Taint], tolerations: Sequence[Toleration], effects: Sequence[str]
) -> Taint | None:
    """Return the first taint with one of `effects` that no toleration covers."""
    return next(
        (t for t in taints if t.effect in effects and not any(tolerates(o, t) for o in tolerations)), None
    )
