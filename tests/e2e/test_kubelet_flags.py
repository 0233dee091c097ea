"""E18: a kubelet started with the flags of the text, and what each of them does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e.bare_node import KUBECONFIG, PODLING, BareNode
from e2e.shorthand import inside, ready
from podling.machine.paths import ClusterPaths
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NAME = "kube-flags"
TEXT = (
    f"--kubeconfig={KUBECONFIG}",
    "--config=/var/lib/kubelet/config.yaml",
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
"""As `ps` shows it in the text, in another order."""
CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
clusterDomain: overridden.by.flag
maxPods: 7
podPidsLimit: 40
systemReserved: {cpu: 100m}
readOnlyPort: 10255
registerWithTaints: [{key: only, value: flags, effect: NoSchedule}]
"""


@pytest.fixture(scope="module")
def node(cluster: PodlingCluster) -> Iterator[BareNode]:
    with BareNode(cluster, NAME, 201) as made:
        made.write_credentials()
        (made.paths.bind("kubelet") / "config.yaml").write_text(CONFIG)
        with made.agent(*TEXT, "--node-labels=made=by-flag"):
            made.wait_ready()
            yield made


def ask_kubelet(cluster: PodlingCluster, node: BareNode, path: str) -> str:
    """As the API server asks it."""
    pki = ClusterPaths.of(cluster.name).pki / "apiserver-kubelet-client"
    url = f"https://{node.config.address}:10250{path}"
    argv = ["curl", "-s", "--fail", "--insecure", "--cert", f"{pki}.crt", "--key", f"{pki}.key", url]
    return cluster.run(argv, check=True, timeout_s=30).stdout


def test_the_command_line_of_the_text_brings_up_a_node(cluster: PodlingCluster, node: BareNode) -> None:
    found = cluster.get("node", NAME)
    assert found["metadata"]["labels"]["made"] == "by-flag"
    assert {"key": "only", "value": "flags", "effect": "NoSchedule"} in found["spec"]["taints"]
    capacity, allocatable = found["status"]["capacity"], found["status"]["allocatable"]
    assert capacity["pods"] == allocatable["pods"] == "7"
    assert allocatable["cpu"] == f"{int(capacity['cpu']) * 1000 - 100}m"
    assert int(capacity["memory"][:-2]) - int(allocatable["memory"][:-2]) == 100 * 1024
    configz = json.loads(ask_kubelet(cluster, node, "/configz"))["kubeletconfig"]
    assert configz["clusterDomain"] == "cluster.local"
    assert configz["maxPods"] == 7
    assert configz["evictionHard"]["nodefs.inodesFree"] == "1000"
    assert "feature gate DynamicKubeletConfig was removed" in node.log
    assert "pause containers are our own, in place of k8s.gcr.io/pause:3.1" in node.log
    assert " DEBUG " in node.log


def test_pods_on_it_are_as_the_flags_say(cluster: PodlingCluster, node: BareNode, namespace: str) -> None:
    bomb = "for i in $(seq 60); do sleep 100 & done; wait"
    cluster.apply([pod("dns", busybox(), nodeName=NAME, namespace=namespace)])
    cluster.apply([pod("bomb", busybox(command=bomb), nodeName=NAME, namespace=namespace)])
    ready(cluster, namespace, "dns", "bomb")
    resolver = inside(cluster, namespace, "dns", "cat /etc/resolv.conf")
    assert "nameserver 10.96.0.10" in resolver
    assert f"search {namespace}.svc.cluster.local svc.cluster.local cluster.local" in resolver

    def refused() -> None:
        log = cluster.kubectl("logs", "-n", namespace, "bomb")
        assert "can't fork" in log

    eventually(refused)


def test_the_read_only_port_tells_without_a_password(node: BareNode) -> None:
    pods = json.loads(node.out("curl", "-s", "--fail", "http://127.0.0.1:10255/pods"))
    assert pods["kind"] == "PodList"
    assert node.out("curl", "-s", "http://127.0.0.1:10248/healthz") == "ok"
    refused = node.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:10255/exec/a/b/c"
    )
    assert refused.stdout == "404"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--no-such-flag=1"], "failed to parse kubelet flag: unknown flag: --no-such-flag"),
        (["--config=/etc/hostname"], "failed to load kubelet config file, path: /etc/hostname"),
        (["--kubeconfig=/nowhere"], "stat /nowhere: no such file or directory"),
        (["--cgroup-driver=systemd"], 'invalid argument "systemd" for "--cgroup-driver" flag'),
        (["--node-ip=10.0.0.1", "--feature-gates=Flying=true"], "unrecognized feature gate: Flying"),
    ],
)
def test_what_it_cannot_do_it_refuses(node: BareNode, flags: list[str], words: str) -> None:
    done = node.run(*PODLING, "agent", *flags)
    assert done.returncode == 1
    assert words in done.stderr


def test_an_unknown_field_of_the_file_is_named(node: BareNode) -> None:
    (node.paths.bind("kubelet") / "wrong.yaml").write_text(f"{CONFIG}clusterDomian: x\n")
    done = node.run(*PODLING, "agent", "--config=/var/lib/kubelet/wrong.yaml")
    assert done.returncode == 1
    assert 'strict decoding error: unknown field "clusterDomian"' in done.stderr


def test_help_documents_every_flag_of_the_text(node: BareNode) -> None:
    text = node.out(*PODLING, "agent", "--help")
    for flag in {flag.partition("=")[0] for flag in TEXT}:
        assert f"\n  {flag} " in text
