"""The bandwidth a pod asks for by annotation, as the CNI capability argument `bandwidth`.

`kubernetes.io/ingress-bandwidth: 10M` and `kubernetes.io/egress-bandwidth: 10M` are quantities in bits a
second, from 1k to 1P (Kubernetes, "Network Plugins: Support traffic shaping"). They work on nodes whose
network has the plugin `bandwidth` with that capability.
"""

from __future__ import annotations

from collections.abc import Mapping

from podling.api.quantity import parse_quantity

PREFIX, SUFFIX = "kubernetes.io/", "-bandwidth"
RATE_MIN, RATE_MAX = 10**3, 10**15
BURST_MIN = 64 * 1500 * 8  # bits: one segment of a sender that offloads segmentation
BURST_MAX = 8 * (2**32 - 1) - 8


def bandwidth_of(annotations: Mapping[str, str]) -> dict[str, int]:
    """Rates and bursts in bits; empty when no limit is asked for. `ValueError` says what is wrong.

    Differs from upstream: other runtimes pass a burst of 4 Gbit, which lets whole transfers through before
    the rate counts for anything. Ours is what the rate lets through in 100 ms.
    """
    found: dict[str, int] = {}
    for direction in ("ingress", "egress"):
        text = annotations.get(f"{PREFIX}{direction}{SUFFIX}")
        if text is None:
            continue
        rate = int(parse_quantity(text))
        if not RATE_MIN <= rate <= RATE_MAX:
            small = rate < RATE_MIN
            words = "small (less than 1kbit/s)" if small else "large (more than 1Pbit/s)"
            raise ValueError(f"{PREFIX}{direction}{SUFFIX}: resource is unreasonably {words}")
        found[f"{direction}Rate"] = rate
        found[f"{direction}Burst"] = min(max(rate // 10, BURST_MIN), BURST_MAX)
    return found
