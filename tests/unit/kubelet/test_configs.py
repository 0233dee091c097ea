"""The CRI's sandbox and container configurations, and what goes into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from podling.kubelet import names, resources
from podling.kubelet.config import KubeletConfig
from podling.kubelet.container_config import (
    ContainerContext,
    ImageUser,
    PreparedVolume,
    build_container_config,
)
from podling.kubelet.dns import ResolvConf, dns_config, parse_resolv_conf
from podling.kubelet.environment import ConfigError
from podling.kubelet.hosts_file import pod_hostname, render_hosts
from podling.kubelet.sandbox_config import build_sandbox_config
from podling.runtime.cri import messages as cri

from .builders import UID, container, make_pod

CONFIG = KubeletConfig(node_name="node-1", node_ip="10.192.0.3", cluster_dns=("10.96.0.10",))
HOST = ResolvConf(servers=("192.0.2.1",), searches=("example.org",), options=("timeout:1",))
GIB = 1024**3


def build(
    fields=None, *, attempt=0, image_user=None, volumes=None, context=None, **spec
) -> cri.ContainerConfig:
    pod = make_pod(container(**(fields or {})), **spec)
    context = ContainerContext(
        attempt=attempt,
        image_id="sha256:b",
        image_user=image_user or ImageUser(),
        volumes=volumes or {},
        hosts_file=Path("/pods/etc-hosts"),
        termination_file=Path("/pods/message"),
        node_memory_bytes=4 * GIB,
        **(context or {}),
    )
    return build_container_config(pod, pod.spec.containers[0], context)


def build_sandbox(**spec) -> cri.PodSandboxConfig:
    return build_sandbox_config(
        make_pod(**spec), CONFIG, attempt=2, resolver=HOST, cgroup_parent="/kubepods/besteffort/podX"
    )


def test_the_container_is_labelled_and_named_as_upstream_does() -> None:
    config = build({"command": ["sh", "-c", "echo $(A)"], "env": [{"name": "A", "value": "1"}]}, attempt=3)
    assert config.metadata == cri.ContainerMetadata(name="main", attempt=3)
    assert config.labels[names.POD_UID_LABEL] == UID
    assert config.labels[names.CONTAINER_NAME_LABEL] == "main"
    assert config.command == ["sh", "-c", "echo 1"]
    assert config.log_path == "main/3.log"
    assert config.image == cri.ImageSpec(image="sha256:b", user_specified_image="busybox")
    assert config.annotations[names.RESTART_COUNT_ANNOTATION] == "3"


def test_hosts_and_termination_file_are_mounted_unless_a_volume_takes_the_place() -> None:
    assert [m.container_path for m in build().mounts] == ["/etc/hosts", "/dev/termination-log"]
    volumes = {"v": PreparedVolume(path=Path("/v"), read_only=True)}
    config = build({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}, volumes=volumes)
    assert [(m.container_path, m.host_path, m.readonly) for m in config.mounts] == [
        ("/etc/hosts", "/v", True),
        ("/dev/termination-log", "/pods/message", False),
    ]


def test_a_mount_of_an_unknown_volume_is_refused() -> None:
    with pytest.raises(ConfigError, match='cannot find volume "v" to mount into container'):
        build({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})


def test_security_contexts_merge() -> None:
    config = build(
        {
            "securityContext": {
                "runAsUser": 7,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
        },
        securityContext={"runAsUser": 5, "runAsGroup": 6, "fsGroup": 8, "supplementalGroups": [9]},
    )
    context = config.linux.security_context
    assert (context.run_as_user, context.run_as_group) == (7, 6)
    assert context.supplemental_groups == [9, 8]
    assert context.no_new_privs
    assert context.capabilities.drop_capabilities == ["ALL"]
    assert "/proc/kcore" in context.masked_paths
    assert context.seccomp.profile_type is cri.SecurityProfileType.Unconfined


def test_without_a_seccomp_profile_the_configured_default_holds() -> None:
    kinds = cri.SecurityProfileType
    assert build().linux.security_context.seccomp.profile_type is kinds.Unconfined
    on = {"seccomp_default": True}
    assert build(context=on).linux.security_context.seccomp.profile_type is kinds.RuntimeDefault
    config = build({"securityContext": {"privileged": True}}, context=on)
    assert config.linux.security_context.seccomp.profile_type is kinds.Unconfined


def test_local_profiles_are_found_below_the_kubelets_directory() -> None:
    local = {"type": "Localhost", "localhostProfile": "profiles/audit.json"}
    config = build({"securityContext": {"seccompProfile": local, "appArmorProfile": local}})
    context = config.linux.security_context
    assert context.seccomp.localhost_ref == "/var/lib/kubelet/seccomp/profiles/audit.json"
    assert context.apparmor.localhost_ref == "profiles/audit.json"


def test_a_pod_with_users_of_its_own_has_all_mounts_mapped() -> None:
    mapping = [cri.IDMapping(host_id=131072, container_id=0, length=65536)]
    users = cri.UserNamespace(mode=cri.NamespaceMode.POD, uids=mapping, gids=mapping)
    volumes = {"v": PreparedVolume(path=Path("/v"))}
    fields = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    config = build(fields, volumes=volumes, context={"users": users})
    assert [m.container_path for m in config.mounts] == ["/v", "/etc/hosts", "/dev/termination-log"]
    assert all(m.uid_mappings == m.gid_mappings == mapping for m in config.mounts)
    assert config.linux.security_context.namespace_options.userns_options == users


def test_image_volumes_are_the_runtimes_to_mount() -> None:
    fields = {
        "env": [{"name": "WHICH", "value": "small"}],
        "volumeMounts": [{"name": "v", "mountPath": "/m", "subPathExpr": "models/$(WHICH)"}],
    }
    config = build(fields, volumes={"v": PreparedVolume(image="example.org/models:1", read_only=True)})
    image = cri.ImageSpec(image="example.org/models:1", user_specified_image="example.org/models:1")
    assert config.mounts[0] == cri.Mount(
        container_path="/m", image=image, image_sub_path="models/small", readonly=True
    )


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("SIGUSR1", cri.Signal.SIGUSR1),
        ("SIGRTMIN+3", cri.Signal.SIGRTMINPLUS3),
        ("SIGRTMAX-1", cri.Signal.SIGRTMAXMINUS1),
    ],
)
def test_stop_signals_by_the_names_of_the_api(name: str, signal: cri.Signal) -> None:
    assert build({"lifecycle": {"stopSignal": name}}).stop_signal is signal


def test_a_privileged_container_sees_everything() -> None:
    context = build({"securityContext": {"privileged": True}}).linux.security_context
    assert context.privileged
    assert context.masked_paths == []


def test_a_debugger_may_be_privileged_in_a_pod_that_was_not_when_it_was_made() -> None:
    debugger = {"name": "debug", "image": "busybox", "securityContext": {"privileged": True}}
    assert not build_sandbox().linux.security_context.privileged
    assert build_sandbox(ephemeralContainers=[debugger]).linux.security_context.privileged


@pytest.mark.parametrize(
    ("image", "user", "message"),
    [
        (ImageUser(uid=0), None, "container has runAsNonRoot and image will run as root"),
        (ImageUser(username="www"), None, "image has non-numeric user (www)"),
        (ImageUser(), 0, "container's runAsUser breaks non-root policy"),
        (ImageUser(uid=1000), None, None),
        (ImageUser(uid=0), 1000, None),
    ],
)
def test_run_as_non_root_is_verified(image, user, message) -> None:
    security = {"runAsNonRoot": True} | ({"runAsUser": user} if user is not None else {})
    if message is None:
        build({"securityContext": security}, image_user=image)
        return
    with pytest.raises(ConfigError) as caught:
        build({"securityContext": security}, image_user=image)
    assert message in str(caught.value)


def test_limits_as_the_kernel_counts_them() -> None:
    both = {"cpu": "500m", "memory": "128Mi"}
    found = build({"resources": {"requests": both, "limits": both}}).linux.resources
    assert found.cpu_shares == 512
    assert (found.cpu_quota, found.cpu_period) == (50_000, 100_000)
    assert found.memory_limit_in_bytes == 128 * 1024**2
    assert found.oom_score_adj == -997


def test_oom_scores_follow_the_quality_of_service() -> None:
    assert build().linux.resources.oom_score_adj == 1000
    burstable = build({"resources": {"requests": {"memory": "1Gi"}}}).linux.resources
    assert burstable.oom_score_adj == 750
    assert burstable.cpu_shares == 2
    tiny = build({"resources": {"requests": {"memory": "1Ki"}}}).linux.resources
    assert tiny.oom_score_adj == 999


def test_the_pods_cgroup_has_the_sum_and_no_limit_that_one_container_lacks() -> None:
    limited = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
    pod = make_pod(container("a", resources=limited), container("b", resources=limited))
    found = resources.pod_resources(pod)
    assert (found.cpu_quota, found.cpu_shares, found.memory_limit_in_bytes) == (200_000, 2048, 2 * GIB)
    open_pod = make_pod(container("a", resources=limited), container("b"))
    assert resources.pod_resources(open_pod).memory_limit_in_bytes == 0


def test_the_sandbox_is_described_by_the_pod() -> None:
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]
    pod = make_pod(container(ports=ports), metadata={"labels": {"app": "web"}})
    config = build_sandbox_config(pod, CONFIG, attempt=2, resolver=HOST, cgroup_parent="/x")
    assert config.metadata == cri.PodSandboxMetadata(name="web", uid=UID, namespace="default", attempt=2)
    assert config.hostname == "web"
    assert config.labels["app"] == "web"
    assert [(p.container_port, p.host_port) for p in config.port_mappings] == [(80, 8080)]
    assert config.linux.cgroup_parent == "/x"
    assert config.log_directory == f"/var/log/pods/default_web_{UID}"


@pytest.mark.parametrize(
    ("spec", "network", "pid", "ipc"),
    [
        ({}, "POD", "CONTAINER", "POD"),
        ({"shareProcessNamespace": True}, "POD", "POD", "POD"),
        ({"hostNetwork": True, "hostPID": True, "hostIPC": True}, "NODE", "NODE", "NODE"),
    ],
)
def test_namespaces_are_shared_as_the_pod_asks(spec, network, pid, ipc) -> None:
    options = build_sandbox(**spec).linux.security_context.namespace_options
    assert (options.network.name, options.pid.name, options.ipc.name) == (network, pid, ipc)


def test_cluster_dns_first_and_the_nodes_domains_after() -> None:
    found = dns_config(make_pod(), CONFIG, HOST)
    assert found.servers == ["10.96.0.10"]
    assert found.searches == [
        "default.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "example.org",
    ]
    assert found.options == ["ndots:5"]


def test_dns_policies() -> None:
    assert dns_config(make_pod(dnsPolicy="Default"), CONFIG, HOST).servers == ["192.0.2.1"]
    assert dns_config(make_pod(hostNetwork=True), CONFIG, HOST).servers == ["192.0.2.1"]
    with_host = make_pod(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    assert dns_config(with_host, CONFIG, HOST).servers == ["10.96.0.10"]
    extra = {
        "nameservers": ["198.51.100.1"],
        "searches": ["a.b"],
        "options": [{"name": "ndots", "value": "2"}],
    }
    none = dns_config(make_pod(dnsPolicy="None", dnsConfig=extra), CONFIG, HOST)
    assert (none.servers, none.searches, none.options) == (["198.51.100.1"], ["a.b"], ["ndots:2"])


def test_resolv_conf_is_read() -> None:
    text = "# comment\nnameserver 192.0.2.1\nsearch a.b c.d.\noptions ndots:2 rotate\n"
    assert parse_resolv_conf(text) == ResolvConf(
        servers=("192.0.2.1",), searches=("a.b", "c.d"), options=("ndots:2", "rotate")
    )


def test_the_hosts_file_names_the_pod() -> None:
    pod = make_pod(
        hostname="h", subdomain="s", hostAliases=[{"ip": "192.0.2.9", "hostnames": ["foo", "bar"]}]
    )
    text = render_hosts(pod, ["10.244.1.5"], cluster_domain="cluster.local")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.244.1.5\th.s.default.svc.cluster.local\th\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n192.0.2.9\tfoo\tbar\n")


def test_a_host_network_pod_has_the_nodes_hosts() -> None:
    text = render_hosts(make_pod(hostNetwork=True), [], cluster_domain="c", host_file="127.0.0.1 node\n")
    assert text == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n"


def test_long_names_become_host_names_of_63_characters() -> None:
    assert pod_hostname(make_pod(name="a" * 62 + "-bcd")) == "a" * 62


def test_huge_pages_that_are_not_asked_for_are_none() -> None:
    limits = {"limits": {"hugepages-2Mi": "8Mi", "memory": "1Gi"}}
    config = build({"resources": limits}, context={"page_sizes": ["hugepages-2Mi", "hugepages-1Gi"]})
    assert config.linux.resources.hugepage_limits == [
        cri.HugepageLimit(page_size="2MB", limit=8 << 20),
        cri.HugepageLimit(page_size="1GB", limit=0),
    ]


def test_the_files_of_cgroup_v2_are_handed_to_the_runtime() -> None:
    files = {"memory.oom.group": "1", "memory.swap.max": "0"}
    pod = make_pod(container())
    context = ContainerContext(attempt=0, image_id="sha256:b", image_user=ImageUser(), cgroup_files=files)
    config = build_container_config(pod, pod.spec.containers[0], context)
    assert config.linux.resources.unified == files
    assert build().linux.resources.unified == {}
