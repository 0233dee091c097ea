from decimal import Decimal

import msgspec
import pytest

from podling.api import pods
from podling.api.core_v1 import Pod, PodCondition, PodStatus, Taint, Toleration
from podling.api.taints import find_untolerated, tolerates


def make_pod(**spec):
    return msgspec.convert({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}, Pod)


def container(name="c", requests=None, limits=None, **more):
    return {"name": name, "resources": {"requests": requests or {}, "limits": limits or {}}, **more}


FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([container()], "BestEffort"),
        ([{"name": "c"}], "BestEffort"),
        ([container(requests={"cpu": "0"})], "BestEffort"),
        ([container(requests={"ephemeral-storage": "1Gi"})], "BestEffort"),
        ([container(requests=FULL, limits=FULL)], "Guaranteed"),
        ([container(requests={"cpu": "1000m", "memory": "1024Mi"}, limits=FULL)], "Guaranteed"),
        ([container(requests={"cpu": "1"}, limits=FULL)], "Burstable"),
        ([container(requests={"cpu": "500m", "memory": "1Gi"}, limits=FULL)], "Burstable"),
        ([container(requests=FULL, limits=FULL), container("d")], "Burstable"),
    ],
)
def test_quality_of_service(containers, expected):
    assert pods.qos_class(make_pod(containers=containers)) == expected
    assert pods.qos_class_of({"spec": {"containers": containers}}) == expected


def test_requests_are_the_sum_or_the_greatest_init_container():
    pod = make_pod(
        containers=[container(requests={"cpu": "100m"}), container("d", requests={"cpu": "200m"})],
        initContainers=[container("i", requests={"cpu": "1", "memory": "10Mi"})],
        overhead={"cpu": "50m"},
    )
    assert pods.pod_requests(pod) == {"cpu": Decimal("1.05"), "memory": 10 * 2**20}


def test_sidecars_add_to_containers_and_to_later_init_containers():
    pod = make_pod(
        containers=[container(requests={"cpu": "100m"})],
        initContainers=[
            container("s", requests={"cpu": "300m"}, restartPolicy="Always"),
            container("i", requests={"cpu": "200m"}),
        ],
    )
    assert pods.pod_requests(pod) == {"cpu": Decimal("0.5")}


def test_limits_are_known_only_where_every_container_has_one():
    pod = make_pod(
        containers=[container(limits={"cpu": "1", "memory": "1Gi"}), container("d", limits={"cpu": "1"})]
    )
    assert pods.pod_limits(pod) == {"cpu": Decimal(2)}


def test_a_condition_keeps_its_transition_time_until_its_status_changes():
    status = PodStatus()
    assert pods.set_condition(
        status, PodCondition(type="Ready", status="False", last_transition_time="2025-01-01T00:00:00Z")
    )
    assert not pods.set_condition(status, PodCondition(type="Ready", status="False"))
    assert pods.set_condition(status, PodCondition(type="Ready", status="False", reason="X"))
    assert status.conditions[0].last_transition_time == "2025-01-01T00:00:00Z"
    assert pods.set_condition(status, PodCondition(type="Ready", status="True"))
    assert status.conditions[0].last_transition_time != "2025-01-01T00:00:00Z"
    assert pods.is_ready(Pod(status=status))


def test_host_ports_and_names():
    pod = make_pod(containers=[{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}])
    assert list(pods.host_ports(pod)) == [("0.0.0.0", "TCP", 8080)]
    assert pods.pod_key(pod) == "ns/p"
    assert pods.find_container(pod, "c") is not None
    assert pods.find_container(pod, "x") is None
    assert pods.phase(pod) == "Pending"
    assert not pods.is_terminal(pod)


def test_tolerations():
    taint = Taint(key="k", value="v", effect="NoSchedule")
    assert tolerates(Toleration(operator="Exists"), taint)
    assert tolerates(Toleration(key="k", value="v"), taint)
    assert not tolerates(Toleration(key="k", value="w"), taint)
    assert not tolerates(Toleration(key="k", operator="Exists", effect="NoExecute"), taint)
    assert find_untolerated([taint], [], ["NoSchedule"]) is taint
    assert find_untolerated([taint], [], ["NoExecute"]) is None
    assert find_untolerated([taint], [Toleration(operator="Exists")], ["NoSchedule"]) is None
