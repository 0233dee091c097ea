"""The cgroups above the containers: `kubepods`, its QoS classes and one a pod.

Names are upstream's with the cgroupfs driver, so that people find what they know:

    kubepods/podUID                 Guaranteed
    kubepods/burstable/podUID       Burstable
    kubepods/besteffort/podUID      BestEffort

The container's own cgroup below is the runtime's. Limits are set on the pod's; the QoS parents carry
CPU weight: best effort has the least, burstable what its pods ask for together.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from podling.api import core_v1
from podling.api.pods import qos_class
from podling.kubelet import names, resources
from podling.kubelet.config import KubeletConfig
from podling.linux.cgroups import Cgroups, Layout, Limits

ROOT = "kubepods"

CONTAINER_FILES_V2 = {"memory.oom.group": "1", "memory.swap.max": "0"}
"""Out of memory ends a container as a whole (upstream's `singleProcessOOMKill: false`), and its limit is not
stretched by swapping (`NoSwap`)."""

log = logging.getLogger(__name__)


class PodCgroups:
    """Paths are relative to the cgroup root the kubelet sees, and begin with a slash."""

    def __init__(self, config: KubeletConfig) -> None:
        self._config = config
        self._root = f"{config.cgroup_root.rstrip('/')}/{ROOT}"
        self._cgroups = Cgroups() if config.cgroups_per_qos else None
        self.container_files: dict[str, str] = {}
        """cgroup v2 files that every container gets; empty on v1. Known after `ensure_roots`."""

    def ensure_roots(self) -> None:
        """Make the QoS parents; best effort has the smallest weight there is. Idempotent."""
        if self._cgroups is None:
            return
        self._cgroups.create(self._root)
        self._cgroups.create(f"{self._root}/burstable")
        self._cgroups.create(f"{self._root}/besteffort", Limits(cpu_shares=resources.MIN_SHARES))
        folder = self._cgroups.path(self._root, "memory")
        if folder is not None and self._cgroups.layout is Layout.V2:
            # A kernel without swap has no file for it.
            self.container_files = {n: v for n, v in CONTAINER_FILES_V2.items() if (folder / n).exists()}

    def create(self, pod: core_v1.Pod, *, at_least: core_v1.Pod | None = None) -> None:
        """Make the pod's cgroup and set its limits: the wider ones of this pod and `at_least`. Idempotent.
        Raises OSError."""
        if self._cgroups is None:
            return
        limits = resources.pod_resources(pod)
        if at_least is not None:
            limits = resources.wider(limits, resources.pod_resources(at_least))
        self._cgroups.create(
            self.parent(pod),
            Limits(
                cpu_shares=limits.cpu_shares,
                cpu_quota_us=limits.cpu_quota or None,
                cpu_period_us=limits.cpu_period,
                memory_bytes=limits.memory_limit_in_bytes or None,
                pids=self._config.pod_max_pids if self._config.pod_max_pids > 0 else None,
            ),
        )

    def set_burstable(self, milli: int) -> None:
        """Give the burstable class the CPU weight its pods ask for together, in thousandths of a core."""
        if self._cgroups is not None:
            limits = Limits(cpu_shares=resources.cpu_shares(milli))
            self._cgroups.set_limits(f"{self._root}/burstable", limits)

    def remove(self, pod: core_v1.Pod) -> None:
        """Remove the pod's cgroup in every class: the pod of an orphan does not say which it had."""
        if self._cgroups is None:
            return
        uid = names.pod_uid(pod)
        for parent in (self._root, f"{self._root}/burstable", f"{self._root}/besteffort"):
            with suppress(FileNotFoundError):
                if not self._cgroups.remove(f"{parent}/pod{uid}"):
                    log.warning("cgroup %s/pod%s still has processes", parent, uid)

    def parent(self, pod: core_v1.Pod) -> str:
        """`cgroup_parent` of the pod's sandbox; empty when the runtime shall choose."""
        if not self._config.cgroups_per_qos:
            return ""
        quality = qos_class(pod)
        uid = names.pod_uid(pod)
        if quality == "Guaranteed":
            return f"{self._root}/pod{uid}"
        return f"{self._root}/{quality.lower()}/pod{uid}"
