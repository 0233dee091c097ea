from datetime import UTC, datetime, timedelta

import pytest

from podling.api.tables import columns, row_cells
from podling.api.times import format_time

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)


def ago(**span):
    return format_time(NOW - timedelta(**span))


def cells(kind, obj):
    found = row_cells(kind, obj, NOW)
    assert len(found) == len(columns(kind))
    return found


def headers(kind, *, wide=False):
    return [c["name"].upper() for c in columns(kind) if wide or c["priority"] == 0]


def test_the_columns_people_know():
    assert headers("Pod") == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert headers("Pod", wide=True)[5:] == ["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]
    assert headers("Node") == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert headers("Service") == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert headers("Event") == ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert headers("Unheard") == ["NAME", "AGE"]
    for kind in ("Pod", "Event", "ConfigMap"):
        for column in columns(kind):
            assert set(column) == {"name", "type", "format", "description", "priority"}
            assert column["description"]


def state(**kind):
    return kind


RUNNING = state(running={"startedAt": ago(minutes=1)})


def waiting(reason=""):
    return state(waiting={"reason": reason} if reason else {})


def ended(exit_code=0, **more):
    return state(terminated={"exitCode": exit_code, **more})


def container(name="c", state_=None, ready=False, restarts=0, **more):
    return {"name": name, "state": state_ or {}, "ready": ready, "restartCount": restarts, **more}


def pod(*statuses, init=(), sidecars=(), phase="Running", meta=None, **status):
    init_names = [s["name"] for s in init]
    return {
        "metadata": {"name": "p", "creationTimestamp": ago(hours=3), **(meta or {})},
        "spec": {
            "containers": [{"name": s["name"]} for s in statuses] or [{"name": "c"}],
            "initContainers": [
                {"name": n, **({"restartPolicy": "Always"} if n in sidecars else {})} for n in init_names
            ],
        },
        "status": {
            "phase": phase,
            "containerStatuses": list(statuses),
            "initContainerStatuses": list(init),
            **status,
        },
    }


READY_CONDITION = [{"type": "Ready", "status": "True"}]


@pytest.mark.parametrize(
    ("obj", "ready", "status"),
    [
        (pod(phase="Pending"), "0/1", "Pending"),
        (pod(container(state_=waiting("ContainerCreating")), phase="Pending"), "0/1", "ContainerCreating"),
        (pod(container(state_=RUNNING, ready=True)), "1/1", "Running"),
        (pod(container(state_=RUNNING)), "0/1", "Running"),
        (pod(container(state_=waiting("CrashLoopBackOff"))), "0/1", "CrashLoopBackOff"),
        (pod(container(state_=waiting("ErrImagePull")), phase="Pending"), "0/1", "ErrImagePull"),
        (pod(container(state_=ended(reason="Completed")), phase="Succeeded"), "0/1", "Completed"),
        (pod(container(state_=ended(1, reason="Error")), phase="Failed"), "0/1", "Error"),
        (pod(container(state_=ended(3)), phase="Failed"), "0/1", "ExitCode:3"),
        (pod(container(state_=ended(137, signal=9)), phase="Failed"), "0/1", "Signal:9"),
        (pod(phase="Failed", reason="Evicted"), "0/1", "Evicted"),
        (
            pod(container("a", waiting("CrashLoopBackOff")), container("b", ended(1, reason="Error"))),
            "0/2",
            "CrashLoopBackOff",
        ),
        (
            pod(container("a", ended(reason="Completed")), container("b", RUNNING, ready=True)),
            "1/2",
            "NotReady",
        ),
        (
            pod(
                container("a", ended(reason="Completed")),
                container("b", RUNNING, ready=True),
                conditions=READY_CONDITION,
            ),
            "1/2",
            "Running",
        ),
        (pod(phase="Pending", conditions=[{"type": "PodScheduled", "reason": "SchedulingGated"}]),
         "0/1", "SchedulingGated"),
        (pod(container(), init=[container("i", RUNNING)], phase="Pending"), "0/1", "Init:0/1"),
        (
            pod(container(), init=[container("i", ended()), container("j")], phase="Pending"),
            "0/1",
            "Init:1/2",
        ),
        (pod(container(), init=[container("i", waiting("PodInitializing"))]), "0/1", "Init:0/1"),
        (
            pod(container(), init=[container("i", waiting("CrashLoopBackOff"))]),
            "0/1",
            "Init:CrashLoopBackOff",
        ),
        (pod(container(), init=[container("i", ended(1, reason="Error"))]), "0/1", "Init:Error"),
        (pod(container(), init=[container("i", ended(2))]), "0/1", "Init:ExitCode:2"),
        (pod(container(), init=[container("i", ended(137, signal=9))]), "0/1", "Init:Signal:9"),
        (
            pod(
                container(state_=waiting("PodInitializing")),
                init=[container("i", ended())],
                phase="Pending",
            ),
            "0/1",
            "PodInitializing",
        ),
        (
            pod(
                container(state_=RUNNING, ready=True),
                init=[container("s", RUNNING, ready=True, started=True)],
                sidecars=("s",),
            ),
            "2/2",
            "Running",
        ),
        (pod(container(state_=RUNNING, ready=True), meta={"deletionTimestamp": ago(seconds=1)}),
         "1/1", "Terminating"),
        (pod(container(state_=ended(reason="Completed")), phase="Succeeded",
             meta={"deletionTimestamp": ago(seconds=1)}), "0/1", "Completed"),
        (pod(reason="NodeLost", meta={"deletionTimestamp": ago(seconds=1)}), "0/1", "Unknown"),
    ],
)  # fmt: skip
def test_pod_status(obj, ready, status):
    assert cells("Pod", obj)[1:3] == [ready, status]


def test_restarts_say_when():
    last = {"terminated": {"exitCode": 1, "finishedAt": ago(minutes=5)}}
    assert cells("Pod", pod(container(state_=RUNNING, restarts=3, lastState=last)))[3] == "3 (5m ago)"
    assert cells("Pod", pod(container(state_=RUNNING, restarts=3)))[3] == "3"
    assert cells("Pod", pod(container(state_=RUNNING, lastState=last)))[3] == "0"
    done = container("i", ended(), restarts=7, lastState=last)
    assert cells("Pod", pod(container(state_=RUNNING), init=[done]))[3] == "0"
    assert cells("Pod", pod(container(), init=[container("i", RUNNING, restarts=7)]))[3] == "7"


def test_wide_pod():
    obj = pod(container(state_=RUNNING, ready=True), podIP="10.244.1.5", podIPs=[{"ip": "10.244.1.5"}])
    obj["spec"]["nodeName"] = "kube-node-1"
    assert cells("Pod", obj)[4:] == ["3h", "10.244.1.5", "kube-node-1", "<none>", "<none>"]
    obj["spec"]["readinessGates"] = [{"conditionType": "a/b"}, {"conditionType": "Ready"}]
    obj["status"]["conditions"] = READY_CONDITION
    assert cells("Pod", obj)[8] == "1/2"
    assert cells("Pod", pod())[5:8] == ["<none>", "<none>", "<none>"]


def test_nodes():
    node = {
        "metadata": {
            "name": "kube-master",
            "creationTimestamp": ago(days=3),
            "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "b"},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.192.0.2"}],
            "nodeInfo": {"kubeletVersion": "v1.37.0", "kernelVersion": "6.18"},
        },
    }
    assert cells("Node", node) == [
        "kube-master", "Ready,SchedulingDisabled", "b,control-plane", "3d", "v1.37.0",
        "10.192.0.2", "<none>", "<unknown>", "6.18", "<unknown>",
    ]  # fmt: skip
    assert cells("Node", {"metadata": {"name": "n"}})[1:4] == ["Unknown", "<none>", "<unknown>"]


def test_services():
    service = {
        "metadata": {"name": "web", "creationTimestamp": ago(seconds=30)},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.9",
            "ports": [
                {"port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"port": 53, "protocol": "UDP"},
            ],
            "selector": {"b": "2", "a": "1"},
        },
    }
    assert cells("Service", service) == [
        "web", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "30s", "a=1,b=2",
    ]  # fmt: skip
    external = {"spec": {"type": "ExternalName", "externalName": "example.com"}}
    assert cells("Service", external)[2:5] == ["<none>", "example.com", "<none>"]
    assert cells("Service", {"spec": {"type": "LoadBalancer"}})[3] == "<pending>"


def test_endpoints_show_three_addresses():
    addresses = [{"ip": f"10.0.0.{i}"} for i in range(1, 6)]
    obj = {"metadata": {"name": "e"}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}
    assert cells("Endpoints", obj)[1] == "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    assert cells("Endpoints", {"subsets": [{"addresses": addresses[:1]}]})[1] == "10.0.0.1"
    assert cells("Endpoints", {})[1] == "<none>"


def test_events():
    event = {
        "metadata": {"name": "p.1"},
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        "type": "Normal",
        "reason": "Pulled",
        "message": "Container image present \n",
        "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": ago(minutes=10),
        "lastTimestamp": ago(seconds=5),
        "count": 4,
    }
    assert cells("Event", event) == [
        "5s", "Normal", "Pulled", "pod/p", "spec.containers{c}", "kubelet, n1", "Container image present",
        "10m", 4, "p.1",
    ]  # fmt: skip
    newer = {"eventTime": ago(minutes=3), "reportingComponent": "x", "involvedObject": {"kind": "Node"}}
    assert cells("Event", newer)[0] == "3m"
    assert cells("Event", newer)[3] == "node"
    assert cells("Event", newer)[8] == 1


def test_small_kinds():
    meta = {"metadata": {"name": "x", "creationTimestamp": ago(seconds=1)}}
    assert cells("Namespace", {**meta, "status": {"phase": "Active"}}) == ["x", "Active", "1s"]
    assert cells("ConfigMap", {**meta, "data": {"a": "1"}, "binaryData": {"b": ""}}) == ["x", 2, "1s"]
    assert cells("Secret", {**meta, "type": "Opaque"}) == ["x", "Opaque", 0, "1s"]
    assert cells("ServiceAccount", meta) == ["x", 0, "1s"]
    assert cells("Lease", {**meta, "spec": {"holderIdentity": "n"}}) == ["x", "n", "1s"]
    assert cells("Anything", meta) == ["x", "1s"]
