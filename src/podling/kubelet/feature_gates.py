"""`--feature-gates`: which names there are, and what may be said of them.

Our kubelet has no alternative ways of doing things, so each gate is fixed: a feature that is there is on
(upstream: GA and locked), one that is not there is off. Saying what is true is taken; asking for the
opposite, and unknown names, are refused as upstream refuses them. Gates of features that Kubernetes has
removed are taken with a warning: old command lines name them.
"""

from __future__ import annotations

from collections.abc import Mapping

ON = frozenset(
    {
        "ContainerStopSignals",
        "EventedPLEG",
        "ImageVolume",
        "PodLevelResources",
        "PodLifecycleSleepAction",
        "ProcMountType",
        "RecursiveReadOnlyMounts",
        "RotateKubeletServerCertificate",
        "SeccompDefault",
        "SidecarContainers",
        "UserNamespacesSupport",
    }
)
OFF = frozenset(
    {
        "ContainerCheckpoint",
        "GracefulNodeShutdown",
        "InPlacePodVerticalScaling",
        "KubeletTracing",
        "MemoryQoS",
        "NodeSwap",
    }
)
REMOVED = frozenset(
    {
        "CSIMigration",
        "DynamicKubeletConfig",
        "EphemeralContainers",
        "PodShareProcessNamespace",
        "RotateKubeletClientCertificate",
        "SupportNodePidsLimit",
        "SupportPodPidsLimit",
        "TTLAfterFinished",
    }
)
"""Of releases before this one: the feature is always there, or there no more."""


def check(gates: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """What is wrong, and what to warn of."""
    faults, warnings = [], []
    for name, on in gates.items():
        if name in REMOVED:
            warnings.append(
                f"feature gate {name} was removed from Kubernetes: {name}={str(on).lower()} has no effect"
            )
        elif name in ON and not on:
            faults.append(f"cannot set feature gate {name} to false, feature is locked to true")
        elif name in OFF and on:
            faults.append(
                f"cannot set feature gate {name} to true, feature is locked to false: it is not there yet"
            )
        elif name not in ON and name not in OFF:
            faults.append(f"unrecognized feature gate: {name}")
    return faults, warnings
