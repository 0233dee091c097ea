import copy

import pytest

from podling.api.defaults import apply_defaults, initial_status, pull_policy


def defaulted(kind, obj):
    apply_defaults(kind, obj)
    again = copy.deepcopy(obj)
    apply_defaults(kind, again)
    assert again == obj, "defaults apply once"
    return obj


def pod(container=None, **spec):
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "busybox", **(container or {})}], **spec},
    }


def test_a_minimal_pod_gets_what_kubernetes_gives_it():
    assert defaulted("Pod", pod())["spec"] == {
        "containers": [
            {
                "name": "c",
                "image": "busybox",
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for taint in ("not-ready", "unreachable")
        ],
    }


def test_what_is_given_stays():
    given = pod(
        {"imagePullPolicy": "Never"},
        restartPolicy="Never",
        terminationGracePeriodSeconds=0,
        enableServiceLinks=False,
        serviceAccountName="robot",
        tolerations=[{"operator": "Exists"}],
    )
    spec = defaulted("Pod", given)["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] == 0
    assert spec["enableServiceLinks"] is False
    assert spec["serviceAccount"] == "robot"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["containers"][0]["imagePullPolicy"] == "Never"


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("localhost:5000/busybox", "Always"),
        ("localhost:5000/busybox:1", "IfNotPresent"),
        ("busybox@sha256:abc", "IfNotPresent"),
        ("busybox:latest@sha256:abc", "Always"),
    ],
)
def test_pull_policy_follows_the_tag(image, policy):
    assert pull_policy(image) == policy


def test_containers_parts():
    container = defaulted(
        "Pod",
        pod(
            {
                "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "readinessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 2},
                "lifecycle": {"preStop": {"httpGet": {"port": 80}}},
                "env": [
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                ],
            }
        ),
    )["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert container["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["readinessProbe"]["periodSeconds"] == 2
    assert container["lifecycle"]["preStop"]["httpGet"]["path"] == "/"
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"] == "0"


def test_requests_follow_limits_and_round_to_a_thousandth():
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1500u"}}
    spec = defaulted("Pod", pod({"resources": resources}))["spec"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "2m", "memory": "1Gi"}


def test_requests_of_the_whole_pod_follow_its_containers_then_its_limits():
    resources = {"limits": {"cpu": "2", "memory": "1Gi"}}
    obj = pod({"resources": {"requests": {"cpu": "100m"}}}, resources=resources)
    assert defaulted("Pod", obj)["spec"]["resources"]["requests"] == {"cpu": "100m", "memory": "1Gi"}


def test_volumes():
    volumes = [
        {"name": "a"},
        {"name": "b", "configMap": {"name": "x"}},
        {"name": "c", "secret": {"secretName": "x", "defaultMode": 0o400}},
        {"name": "d", "hostPath": {"path": "/"}},
        {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ]
    found = {v.pop("name"): v for v in defaulted("Pod", pod(volumes=volumes))["spec"]["volumes"]}
    assert found["a"] == {"emptyDir": {}}
    assert found["b"]["configMap"]["defaultMode"] == 0o644
    assert found["c"]["secret"]["defaultMode"] == 0o400
    assert found["d"]["hostPath"]["type"] == ""
    assert found["e"]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


def test_host_network_takes_host_ports():
    obj = pod({"ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 9}]}, hostNetwork=True)
    ports = defaulted("Pod", obj)["spec"]["containers"][0]["ports"]
    assert [p["hostPort"] for p in ports] == [80, 9]


def test_services():
    service = {"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}
    spec = defaulted("Service", service)["spec"]
    assert spec["type"] == "ClusterIP"
    assert spec["sessionAffinity"] == "None"
    assert spec["internalTrafficPolicy"] == "Cluster"
    assert [p["targetPort"] for p in spec["ports"]] == [80, "http"]
    assert "externalTrafficPolicy" not in spec
    node_port = defaulted("Service", {"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}})["spec"]
    assert node_port["externalTrafficPolicy"] == "Cluster"
    assert node_port["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 10800
    external = defaulted("Service", {"spec": {"type": "ExternalName", "externalName": "x"}})["spec"]
    assert set(external) == {"type", "externalName", "sessionAffinity"}


def test_small_kinds():
    namespace = defaulted("Namespace", {"metadata": {"name": "x"}})
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    secret = defaulted("Secret", {"stringData": {"a": "hello"}, "data": {"a": "eA==", "b": "eA=="}})
    assert secret == {"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "eA=="}}
    node = defaulted("Node", {"status": {"capacity": {"cpu": "2"}}})
    assert node["status"]["allocatable"] == {"cpu": "2"}
    endpoints = {"subsets": [{"ports": [{"port": 1}]}]}
    assert defaulted("Endpoints", endpoints)["subsets"][0]["ports"][0]["protocol"] == "TCP"
    assert defaulted("ConfigMap", {"data": {}}) == {"data": {}}


def test_first_status():
    assert initial_status("Pod", pod()) == {"phase": "Pending", "qosClass": "BestEffort"}
    assert initial_status("Namespace", {}) == {"phase": "Active"}
    assert initial_status("ConfigMap", {}) is None
