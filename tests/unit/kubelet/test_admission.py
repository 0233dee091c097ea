"""The node's last word on a pod."""

from __future__ import annotations

import pytest

from podling.kubelet.admission import admit

from .builders import container, make_pod

ALLOCATABLE = {"cpu": "2", "memory": "4Gi", "pods": "110"}
MAIN = {"name": "main", "image": "busybox"}


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        (("0.0.0.0", "TCP", 8080), True),
        (("127.0.0.1", "TCP", 8080), True),
        (("0.0.0.0", "UDP", 8080), False),
        (("0.0.0.0", "TCP", 8081), False),
    ],
)
def test_a_taken_port_of_the_node_is_refused(taken: tuple[str, str, int], refused: bool) -> None:
    pod = make_pod({**MAIN, "ports": [{"containerPort": 80, "hostPort": 8080}]})
    failure = admit(pod, [], ALLOCATABLE, taken_ports=[taken])
    assert (failure is not None) == refused
    if failure is not None:
        assert failure.reason == "NodePorts"
        assert failure.message == "Pod was rejected: Predicate NodePorts failed"


def test_more_than_the_node_has_is_refused() -> None:
    pod = make_pod({**MAIN, "resources": {"requests": {"cpu": "3"}}})
    failure = admit(pod, [], ALLOCATABLE)
    assert failure is not None
    assert failure.reason == "OutOfcpu"
    assert failure.message == (
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
    )


@pytest.mark.parametrize(
    ("name", "allowed", "may"),
    [
        ("net.ipv4.tcp_keepalive_time", (), True),
        ("net/ipv4/tcp_keepalive_time", (), True),
        ("net.core.somaxconn", (), False),
        ("net.core.somaxconn", ("net.core.*",), True),
        ("net.core.somaxconn", ("net.core.somaxconn",), True),
        ("kernel.msgmax", ("kernel.msg*",), True),
        ("vm.swappiness", ("vm.*",), False),
    ],
)
def test_sysctls(name: str, allowed: tuple[str, ...], may: bool) -> None:
    pod = make_pod(container(), securityContext={"sysctls": [{"name": name, "value": "1"}]})
    failure = admit(pod, [], ALLOCATABLE, allowed_unsafe_sysctls=allowed)
    if may:
        assert failure is None
    else:
        assert failure.reason == "SysctlForbidden"
        assert failure.message == f'Pod was rejected: forbidden sysctl: "{name}" not allowlisted'


def test_apparmor_only_where_there_is_any(monkeypatch, tmp_path) -> None:
    enabled = tmp_path / "enabled"
    monkeypatch.setattr("podling.kubelet.admission_security.APPARMOR", enabled)
    pod = make_pod(container(securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}))
    failure = admit(pod, [], ALLOCATABLE)
    assert (failure.reason, failure.message) == (
        "AppArmor",
        "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host",
    )
    unconfined = make_pod(container(securityContext={"appArmorProfile": {"type": "Unconfined"}}))
    assert admit(unconfined, [], ALLOCATABLE) is None
    enabled.write_text("Y\n")
    assert admit(pod, [], ALLOCATABLE) is None
