from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podling.linux.cgroups import Layout
from podling.runtime import oci
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import MountPropagation, NamespaceMode

HOST = oci.Host(
    layout=Layout.V1, capabilities=frozenset(oci.DEFAULT_CAPABILITIES) | {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}
)


def container(config: cri.ContainerConfig | None = None, **changes: Any) -> oci.ContainerInput:
    given = oci.ContainerInput(
        config=config or cri.ContainerConfig(),
        args=["sleep", "1"],
        env=[],
        cwd="/",
        user=cri.LinuxContainerUser(uid=5, gid=6, supplemental_groups=[6, 7]),
        rootfs=Path("/rootfs"),
        namespaces={"network": "/run/netns/x", "ipc": "/proc/9/ns/ipc", "pid": ""},
        cgroup="/kubepods/pod1/c1",
        host=HOST,
        shm=Path("/shm"),
        sandbox_files={"/etc/hostname": Path("/s/hostname")},
        annotations={},
    )
    return replace(given, **changes)


def secured(**fields: Any) -> cri.ContainerConfig:
    context = cri.LinuxContainerSecurityContext(**fields)
    return cri.ContainerConfig(linux=cri.LinuxContainerConfig(security_context=context))


def pause(options: cri.NamespaceOption | None = None, **fields: Any) -> oci.Spec:
    linux = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=options)
    )
    given = oci.PauseInput(
        config=cri.PodSandboxConfig(hostname="web", linux=linux),
        rootfs=Path("/pause"),
        netns="/run/netns/x",
        cgroup="/kubepods/pod1/s1",
        host=HOST,
        annotations={},
    )
    return oci.pause_spec(replace(given, **fields))


def kinds(spec: oci.Spec) -> dict[str, str]:
    return {ns["type"]: ns.get("path", "") for ns in spec["linux"]["namespaces"]}


def destinations(spec: oci.Spec) -> list[str]:
    return [mount["destination"] for mount in spec["mounts"]]


def test_pause_has_no_rights_and_nothing_but_itself() -> None:
    spec = pause()
    assert spec["process"]["args"] == ["/pause"]
    assert spec["process"]["user"] == {"uid": 65535, "gid": 65535}
    assert spec["process"]["capabilities"] == {}
    assert spec["process"]["noNewPrivileges"] is True
    assert spec["root"] == {"path": "/pause", "readonly": True}
    assert spec["mounts"] == []
    assert spec["hostname"] == "web"


def test_pause_joins_the_pinned_network_and_makes_the_rest() -> None:
    assert kinds(pause()) == {"mount": "", "network": "/run/netns/x", "uts": "", "ipc": ""}
    assert "pid" in kinds(pause(shared_pid=True))


def test_pause_stays_in_the_nodes_namespaces_where_asked() -> None:
    node = NamespaceMode.NODE
    spec = pause(cri.NamespaceOption(network=node, pid=node, ipc=node))
    assert kinds(spec) == {"mount": ""}
    assert "hostname" not in spec
    assert spec["linux"]["sysctl"] == {}


def own_users() -> cri.UserNamespace:
    mappings = [cri.IDMapping(host_id=131072, container_id=0, length=65536)]
    return cri.UserNamespace(mode=NamespaceMode.POD, uids=mappings, gids=mappings)


def test_pause_makes_a_user_namespace_and_what_belongs_to_it() -> None:
    spec = pause(cri.NamespaceOption(pid=NamespaceMode.CONTAINER, userns_options=own_users()))
    assert kinds(spec) == {"mount": "", "user": "", "network": "", "uts": "", "ipc": ""}
    mapped = [{"containerID": 0, "hostID": 131072, "size": 65536}]
    assert spec["linux"]["uidMappings"] == spec["linux"]["gidMappings"] == mapped
    assert spec["linux"]["sysctl"]["net.ipv4.ping_group_range"] == "0 65535"
    assert destinations(spec) == ["/dev"]


def test_unmasked_only_with_a_user_namespace() -> None:
    """A kubelet says paths by name, but for procMount Unmasked; a direct client that says none gets all."""
    assert oci.container_spec(container())["linux"]["readonlyPaths"] == list(oci.DEFAULT_READONLY_PATHS)
    spec = oci.container_spec(container(user_namespace=own_users()))
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    masked = oci.container_spec(container(secured(masked_paths=["/proc/x"]), user_namespace=own_users()))
    assert masked["linux"]["maskedPaths"] == ["/proc/x"]


def test_container_joins_paths_and_makes_what_has_none() -> None:
    assert kinds(oci.container_spec(container())) == {
        "mount": "",
        "network": "/run/netns/x",
        "ipc": "/proc/9/ns/ipc",
        "pid": "",
    }


def test_cgroup_namespace_on_v2_only() -> None:
    assert "cgroup" not in kinds(oci.container_spec(container()))
    assert "cgroup" in kinds(oci.container_spec(container(host=replace(HOST, layout=Layout.V2))))


@pytest.mark.parametrize(
    ("add", "drop", "extra", "missing"),
    [
        ([], [], [], []),
        (["NET_ADMIN"], [], ["CAP_NET_ADMIN"], []),
        (["cap_net_admin"], ["CHOWN"], ["CAP_NET_ADMIN"], ["CAP_CHOWN"]),
        (["SYS_BOOT"], [], [], []),  # not ours to give
        ([], ["ALL"], [], list(oci.DEFAULT_CAPABILITIES)),
        (["NET_ADMIN"], ["ALL"], ["CAP_NET_ADMIN"], list(oci.DEFAULT_CAPABILITIES)),
        (["ALL"], ["CHOWN"], ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"], ["CAP_CHOWN"]),
    ],
)
def test_capabilities(add: list[str], drop: list[str], extra: list[str], missing: list[str]) -> None:
    context = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(add_capabilities=add, drop_capabilities=drop)
    )
    wanted = (set(oci.DEFAULT_CAPABILITIES) | set(extra)) - set(missing)
    assert set(oci.capabilities(context, HOST.capabilities)) == wanted


def test_ambient_capabilities_are_inheritable_too() -> None:
    context = cri.LinuxContainerSecurityContext(
        capabilities=cri.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])
    )
    sets = oci.capability_sets(context, HOST.capabilities)
    assert sets["ambient"] == sets["inheritable"] == ["CAP_NET_BIND_SERVICE"]
    assert "inheritable" not in oci.capability_sets(cri.LinuxContainerSecurityContext(), HOST.capabilities)


def test_privileged_is_not_masked_and_gets_devices() -> None:
    device = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}
    spec = oci.container_spec(container(secured(privileged=True), host=oci.with_devices(HOST, (device,))))
    assert "maskedPaths" not in spec["linux"]
    assert spec["linux"]["devices"] == [device]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert set(spec["process"]["capabilities"]["effective"]) == HOST.capabilities
    assert "rw" in next(m for m in spec["mounts"] if m["destination"] == "/sys")["options"]


def test_unprivileged_is_masked_as_asked_or_by_default() -> None:
    assert "/proc/kcore" in oci.container_spec(container())["linux"]["maskedPaths"]
    spec = oci.container_spec(container(secured(masked_paths=["/proc/x"])))
    assert spec["linux"]["maskedPaths"] == ["/proc/x"]


def test_environment_later_wins_and_has_a_path() -> None:
    assert oci.environment(["A=1", "B=2", "A=3"], tty=False) == [oci.DEFAULT_PATH, "A=3", "B=2"]
    assert oci.environment(["PATH=/x"], tty=True) == ["PATH=/x", "TERM=xterm"]


def test_mounts_are_ordered_and_replace_defaults() -> None:
    config = cri.ContainerConfig(
        mounts=[
            cri.Mount(container_path="/a/b/c", host_path="/3"),
            cri.Mount(container_path="/a", host_path="/1", readonly=True),
            cri.Mount(container_path="/dev/shm", host_path="/mine"),
            cri.Mount(container_path="/etc/hostname", host_path="/own"),
        ]
    )
    spec = oci.container_spec(container(config))
    own = destinations(spec)[-4:]
    assert own == ["/a", "/dev/shm", "/etc/hostname", "/a/b/c"]
    assert destinations(spec).count("/dev/shm") == destinations(spec).count("/etc/hostname") == 1
    assert next(m for m in spec["mounts"] if m["destination"] == "/a")["options"] == [
        "rbind",
        "ro",
        "rprivate",
    ]


def test_propagation_reaches_the_root() -> None:
    mounts = [
        cri.Mount(container_path="/a", host_path="/1", propagation=propagation)
        for propagation in (
            MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
            MountPropagation.PROPAGATION_BIDIRECTIONAL,
        )
    ]
    assert oci.container_spec(container())["linux"]["rootfsPropagation"] == "rprivate"
    for count, wanted in ((1, "rslave"), (2, "rshared")):
        config = cri.ContainerConfig(mounts=mounts[:count])
        spec = oci.container_spec(container(config))
        assert spec["linux"]["rootfsPropagation"] == wanted
        assert wanted in spec["mounts"][-1]["options"]


def test_limits_leave_out_what_is_unsaid() -> None:
    assert oci.resource_limits(cri.LinuxContainerResources(), HOST) == {}
    given = cri.LinuxContainerResources(
        cpu_shares=2, memory_limit_in_bytes=9, memory_swap_limit_in_bytes=10, unified={"memory.high": "8"}
    )
    limits = {"cpu": {"shares": 2}, "memory": {"limit": 9, "swap": 10}}
    assert oci.resource_limits(given, HOST) == limits
    on_v2 = oci.resource_limits(given, replace(HOST, layout=Layout.V2))
    assert on_v2 == limits | {"unified": {"memory.high": "8"}}


def test_limits_for_which_there_is_no_controller_are_left_out() -> None:
    given = cri.LinuxContainerResources(
        memory_limit_in_bytes=9,
        memory_swap_limit_in_bytes=10,
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=0)],
    )
    bare = replace(HOST, swap_limits=False, hugepage_limits=False)
    assert oci.resource_limits(given, bare) == {"memory": {"limit": 9}}
    assert oci.resource_limits(given, HOST)["hugepageLimits"] == [{"pageSize": "2MB", "limit": 0}]


def test_oom_score_is_what_the_kernel_lets_us_give() -> None:
    config = cri.ContainerConfig(
        linux=cri.LinuxContainerConfig(resources=cri.LinuxContainerResources(oom_score_adj=-997))
    )
    assert oci.container_spec(container(config))["process"]["oomScoreAdj"] == -997
    floor = replace(HOST, oom_score_adj_floor=0)
    assert oci.container_spec(container(config, host=floor))["process"]["oomScoreAdj"] == 0


def test_seccomp_as_filter_or_document() -> None:
    compiled = oci.container_spec(container(seccomp=oci.Seccomp(filter="abc")))
    assert compiled["annotations"] == {"run.oci.seccomp_bpf_data": "abc"}
    assert "seccomp" not in compiled["linux"]
    document = oci.container_spec(container(seccomp=oci.Seccomp(profile={"defaultAction": "x"})))
    assert document["linux"]["seccomp"] == {"defaultAction": "x"}


def test_extra_devices_are_allowed_by_rule() -> None:
    device = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "access": "rw"}
    rules = oci.container_spec(container(devices=[device]))["linux"]["resources"]["devices"]
    assert rules == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "access": "rw", "type": "c", "major": 10, "minor": 229},
    ]
