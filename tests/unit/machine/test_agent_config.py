"""The agent's command line: the flags of the kubelet, its file, and what they cannot be together."""

from __future__ import annotations

from pathlib import Path

import pytest

from podling.machine.agent_config import AgentConfig, agent_config_of, agent_settings
from podling.machine.config import ConfigError

NODE = ("--hostname-override=n1", "--node-ip=10.0.0.1")
HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def parsed(*argv: str) -> AgentConfig:
    return agent_config_of([*NODE, *argv])


def test_the_file_overrides_defaults_and_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}maxPods: 5\nclusterDomain: from.file\nfeatureGates: {{SeccompDefault: true}}\n")
    config = parsed(
        f"--config={path}", "--cluster-domain=from.flag", "--feature-gates=SidecarContainers=true"
    )
    assert config.kubelet.max_pods == 5
    assert config.kubelet.cluster_domain == "from.flag"
    assert config.kubelet.feature_gates == {"SeccompDefault": True, "SidecarContainers": True}
    assert config.kubelet.port == 10250


def test_the_command_line_of_a_kubelet_of_kubeadm_dind_cluster_is_taken(tmp_path: Path) -> None:
    """As the text shows it, but for where the files are."""
    file = tmp_path / "config.yaml"
    file.write_text(HEAD)
    kubeconfig = tmp_path / "kubelet.conf"
    kubeconfig.write_text("apiVersion: v1\nkind: Config\n")
    config = parsed(
        f"--kubeconfig={kubeconfig}",
        f"--config={file}",
        "--cgroup-driver=cgroupfs",
        "--network-plugin=cni",
        "--pod-infra-container-image=k8s.gcr.io/pause:3.1",
        "--pod-manifest-path=/etc/kubernetes/manifests",
        "--allow-privileged=true",
        "--network-plugin=cni",
        "--cni-conf-dir=/etc/cni/net.d",
        "--cni-bin-dir=/opt/cni/bin",
        "--cluster-dns=10.96.0.10",
        "--cluster-domain=cluster.local",
        "--eviction-hard=memory.available<100Mi,nodefs.available<100Mi,nodefs.inodesFree<1000",
        "--fail-swap-on=false",
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--feature-gates=DynamicKubeletConfig=true",
        "--v=4",
    )
    assert config.kubelet.static_pod_path == Path("/etc/kubernetes/manifests")
    assert config.kubelet.cluster_dns == ("10.96.0.10",)
    assert {t.signal: t.text for t in config.kubelet.eviction_hard} == {
        "memory.available": "100Mi",
        "nodefs.available": "100Mi",
        "nodefs.inodesFree": "1000",
    }
    assert config.runtime.cni_conf_dir == Path("/etc/cni/net.d")
    assert config.runtime.cni_bin_dirs == (Path("/opt/cni/bin"),)
    assert config.kubelet.verbosity == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--no-such-flag"], "failed to parse kubelet flag: unknown flag: --no-such-flag"),
        (["--config=/nowhere/config.yaml"], "failed to load kubelet config file, path: /nowhere/config.yaml"),
        (["--kubeconfig=/nowhere/kubelet.conf"], "stat /nowhere/kubelet.conf: no such file or directory"),
        (["--feature-gates=Flying=true"], "unrecognized feature gate: Flying"),
        (["--feature-gates=SidecarContainers=false"], "cannot set feature gate SidecarContainers to false"),
        (["--node-labels=node-role.kubernetes.io/x="], "unknown 'kubernetes.io' or 'k8s.io' labels"),
        (["--eviction-soft=memory.available<1Gi"], "grace period must be specified for the soft eviction"),
        (["--pod-max-pids=0"], "podPidsLimit (--pod-max-pids) 0"),
        (["--network-plugin=kubenet"], 'must be "cni", not "kubenet"'),
        (["--container-runtime-endpoint=tcp://127.0.0.1"], "--container-runtime-endpoint"),
        (["--cluster-cidr=10.244.0.1/16"], "--cluster-cidr"),
        (["--node-ip=here"], 'bad --node-ip "here"'),
    ],
)
def test_what_cannot_be_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(*argv)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "label", ["a=b", "node.kubernetes.io/x=y", "topology.kubernetes.io/zone=a", "x.k8s.com/a=b"]
)
def test_labels_a_node_may_give_itself(label: str) -> None:
    assert parsed(f"--node-labels={label}").kubelet.node_labels


def test_every_flag_is_declared_once() -> None:
    flags = [item.flag for item in agent_settings() if item.flag]
    assert len(set(flags)) == len(flags)
