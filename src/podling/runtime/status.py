"""Version, Status and RuntimeConfig: what this runtime is and whether it can work."""

from __future__ import annotations

import json
from pathlib import Path

from podling.linux import mounts
from podling.linux.cgroups import Layout
from podling.runtime.core import Core
from podling.runtime.cri import messages as cri

REMEDY_FOR_HYBRID = (
    "unmount the unused cgroup v2 hierarchy beside the v1 controllers (umount /sys/fs/cgroup/unified), "
    "or boot with systemd.unified_cgroup_hierarchy=1"
)


async def version(core: Core, request: cri.VersionRequest) -> cri.VersionResponse:
    """`version` is the kubelet's API, and 0.1.0 what every runtime answers."""
    from importlib.metadata import version as installed  # late: 5 ms that only this call needs

    return cri.VersionResponse(
        version="0.1.0",
        runtime_name="podling",
        runtime_version=installed("podling"),
        runtime_api_version="v1",
    )


async def status(core: Core, request: cri.StatusRequest) -> cri.StatusResponse:
    network = await core.cni.status()
    problem = runtime_problem(core)
    conditions = [
        cri.RuntimeCondition(
            type="RuntimeReady",
            status=not problem,
            reason="UnsupportedCgroups" if problem else "",
            message=problem,
        ),
        cri.RuntimeCondition(
            type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
        ),
    ]
    return cri.StatusResponse(
        status=cri.RuntimeStatus(conditions=conditions),
        info={"config": json.dumps(_settings(core))} if request.verbose else {},
        runtime_handlers=[cri.RuntimeHandler(features=_handler_features())],
        features=cri.RuntimeFeatures(supplemental_groups_policy=True),
    )


def _handler_features() -> cri.RuntimeHandlerFeatures:
    """What this kernel lets the one handler do. One file system may still refuse what another allows."""
    idmap = mounts.can_idmap()  # and with it mount_setattr, which recursive read-only needs
    users = Path("/proc/sys/user/max_user_namespaces")
    return cri.RuntimeHandlerFeatures(
        recursive_read_only_mounts=idmap,
        user_namespaces=idmap and users.exists() and int(users.read_text()) > 0,
    )


def runtime_problem(core: Core) -> str:
    """Why containers cannot run here, with what to do about it; empty when they can."""
    if core.cgroups.layout is Layout.HYBRID:
        return f"crun does not run on hybrid cgroups: {REMEDY_FOR_HYBRID}"
    return ""


def _settings(core: Core) -> dict[str, str]:
    config = core.config
    names = ("root_dir", "run_dir", "image_dir", "cni_conf_dir", "cni_cache_dir", "netns_dir")
    return {name: str(getattr(config, name)) for name in names} | {"cgroups": core.cgroups.layout}


async def runtime_config(core: Core, request: cri.RuntimeConfigRequest) -> cri.RuntimeConfigResponse:
    linux = cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CgroupDriver.CGROUPFS)
    return cri.RuntimeConfigResponse(linux=linux)
