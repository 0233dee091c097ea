"""What may be said of feature gates."""

from __future__ import annotations

from podling.kubelet.feature_gates import OFF, ON, REMOVED, check


def test_what_is_true_may_be_said() -> None:
    assert check({**dict.fromkeys(ON, True), **dict.fromkeys(OFF, False)}) == ([], [])
    assert not ON & OFF
    assert not REMOVED & (ON | OFF)


def test_the_opposite_and_the_unknown_are_refused() -> None:
    faults, warnings = check({"SidecarContainers": False, "NodeSwap": True, "Flying": True})
    assert warnings == []
    assert faults == [
        "cannot set feature gate SidecarContainers to false, feature is locked to true",
        "cannot set feature gate NodeSwap to true, feature is locked to false: it is not there yet",
        "unrecognized feature gate: Flying",
    ]


def test_gates_that_kubernetes_has_removed_are_warned_of() -> None:
    faults, warnings = check({"DynamicKubeletConfig": True})
    assert faults == []
    (warning,) = warnings
    assert "DynamicKubeletConfig was removed from Kubernetes" in warning
