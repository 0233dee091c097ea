"""Pods that are wrong in one way, and what Kubernetes says of each."""

import copy

import pytest

from podling.api import schema as sch
from podling.api.defaults import apply_defaults
from podling.api.validation import validate_create, validate_update


def make(container=None, metadata=None, **spec):
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", **(metadata or {})},
        "spec": {"containers": [{"name": "c", "image": "i", **(container or {})}], **spec},
    }
    schema = sch.schema()
    assert schema.decode_strict(schema.ref("v1", "Pod"), obj) == []
    apply_defaults("Pod", obj)
    return obj


def faults(obj):
    return [str(fault) for fault in validate_create("Pod", obj)]


C = "spec.containers[0]"
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


@pytest.mark.parametrize(
    ("container", "spec", "expected"),
    [
        (
            {"securityContext": {"procMount": "Unmasked"}},
            {},
            f'{C}.securityContext.procMount: Invalid value: "Unmasked": '
            "`hostUsers` must be false to use `Unmasked`",
        ),
        ({"securityContext": {"procMount": "Unmasked"}}, {"hostUsers": False}, None),
        ({}, {"hostUsers": False, "hostPID": True}, "spec.hostPID: Forbidden: when `hostUsers` is false"),
        (
            {"lifecycle": {"stopSignal": "SIGUSR1"}},
            {},
            f"{C}.lifecycle.stopSignal: Forbidden: may not be set when `spec.os.name` is empty",
        ),
        ({"lifecycle": {"stopSignal": "SIGRTMIN+3"}}, {"os": {"name": "linux"}}, None),
    ],
)
def test_user_namespaces_and_what_goes_with_them(container, spec, expected):
    assert faults(make(container, **spec)) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"recursiveReadOnly": "Enabled"}, "may only be specified when readOnly is true"),
        (
            {"recursiveReadOnly": "IfPossible", "readOnly": True, "mountPropagation": "HostToContainer"},
            "may only be specified when mountPropagation is None or not specified",
        ),
        ({"recursiveReadOnly": "Enabled", "readOnly": True}, None),
        ({"recursiveReadOnly": "Disabled"}, None),
    ],
)
def test_recursive_read_only(mount, expected):
    obj = make(
        {"volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]}, volumes=[{"name": "v", "emptyDir": {}}]
    )
    where = f"{C}.volumeMounts[0].recursiveReadOnly: Forbidden: "
    assert faults(obj) == ([where + expected] if expected else [])


def test_a_minimal_pod_is_valid():
    assert faults(make()) == []


def test_a_rich_pod_is_valid():
    obj = make(
        {
            "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            ],
            "envFrom": [{"secretRef": {"name": "s"}, "prefix": "P_"}],
            "volumeMounts": [
                {"name": "v", "mountPath": "/v"},
                {"name": "w", "mountPath": "/w", "subPath": "a/b"},
            ],
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
            "livenessProbe": {"tcpSocket": {"port": "http"}},
            "securityContext": {"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        },
        volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "w", "configMap": {"name": "cm"}}],
        initContainers=[
            {"name": "i", "image": "i"},
            {
                "name": "s",
                "image": "i",
                "restartPolicy": "Always",
                "readinessProbe": {"exec": {"command": ["x"]}},
            },
        ],
        nodeSelector={"disk": "ssd"},
        tolerations=[{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        hostname="h",
        shareProcessNamespace=True,
        hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a.b"]}],
        dnsConfig={"nameservers": ["10.96.0.10"], "searches": ["a.b."], "options": [{"name": "ndots"}]},
    )
    assert faults(obj) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"name": "Bad_Name"}, f'metadata.name: Invalid value: "Bad_Name": {SUBDOMAIN}'),
        ({"name": ""}, "metadata.name: Required value: name or generateName is required"),
        ({"namespace": ""}, "metadata.namespace: Required value"),
        (
            {"labels": {"a": "b c"}},
            'metadata.labels: Invalid value: "b c": a valid label must be an empty string or consist of '
            "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
            "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
            "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        ({"annotations": {"x": "y" * 262144}},
         "metadata.annotations: Too long: may not be more than 262144 bytes"),
        (
            {"finalizers": ["mine"]},
            'metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name '
            "nor is it fully qualified",
        ),
        (
            {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": ""}]},
            'metadata.ownerReferences.uid: Invalid value: "": uid must not be empty',
        ),
        (
            {"annotations": {"kubernetes.io/config.mirror": "x"}},
            'metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName '
            "if mirror pod annotation is set",
        ),
    ],
)  # fmt: skip
def test_metadata(metadata, message):
    assert faults(make(metadata=metadata)) == [message]


@pytest.mark.parametrize(
    ("container", "messages"),
    [
        ({"name": ""}, [f"{C}.name: Required value"]),
        ({"name": "A"}, [f'{C}.name: Invalid value: "A": {LABEL}']),
        ({"name": "a.b"}, [f'{C}.name: Invalid value: "a.b": must not contain dots']),
        ({"image": ""}, [f"{C}.image: Required value"]),
        ({"image": " x"}, [f'{C}.image: Invalid value: " x": must not have leading or trailing whitespace']),
        (
            {"imagePullPolicy": "Often"},
            [f'{C}.imagePullPolicy: Unsupported value: "Often": supported values: '
             '"Always", "IfNotPresent", "Never"'],
        ),
        ({"ports": [{"containerPort": 0}]}, [f"{C}.ports[0].containerPort: Required value"]),
        (
            {"ports": [{"containerPort": 65536}]},
            [f"{C}.ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"],
        ),
        (
            {"ports": [{"containerPort": 80, "hostPort": -1}]},
            [f"{C}.ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive"],
        ),
        (
            {"ports": [{"containerPort": 80, "protocol": "ICMP"}]},
            [f'{C}.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'],
        ),
        (
            {"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]},
            [f'{C}.ports[1].name: Duplicate value: "a"'],
        ),
        (
            {"ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1}]},
            [f'{C}.ports[1].hostPort: Duplicate value: "TCP//1"'],
        ),
        ({"env": [{"name": ""}]}, [f"{C}.env[0].name: Required value"]),
        (
            {"env": [{"name": "A=B"}]},
            [f'{C}.env[0].name: Invalid value: "A=B": a valid environment variable name must consist only '
             "of printable ASCII characters other than '='"],
        ),
        (
            {"env": [{"name": "A", "valueFrom": {}}]},
            [f'{C}.env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, '
             "`configMapKeyRef` or `secretKeyRef`"],
        ),
        (
            {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
            [f'{C}.env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.image"}}}]},
            [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.image": error converting '
             "fieldPath: field label not supported: spec.image"],
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
            [f"{C}.env[0].valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            {"envFrom": [{}]},
            [f'{C}.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`'],
        ),
        (
            {"volumeMounts": [{"name": "none", "mountPath": "/x"}]},
            [f'{C}.volumeMounts[0].name: Not found: "none"'],
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]},
            [f'{C}.volumeMounts[1].mountPath: Invalid value: "/x": must be unique'],
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": ""}]},
            [f"{C}.volumeMounts[0].mountPath: Required value"],
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]},
            [f'{C}.volumeMounts[0].subPath: Invalid value: "../y": must not contain \'..\''],
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}]},
            [f"{C}.volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available "
             "only to privileged containers"],
        ),
        (
            {"resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "100m"}}},
            [f'{C}.resources.requests: Invalid value: "200m": must be less than or equal to cpu limit '
             "of 100m"],
        ),
        (
            {"resources": {"requests": {"cpu": "-1"}}},
            [f'{C}.resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0'],
        ),
        (
            {"resources": {"requests": {"disk": "1"}, "limits": {"disk": "1"}}},
            [f'{C}.resources.{w}[disk]: Invalid value: "disk": must be a standard resource{r}'
             for w in ("limits", "requests") for r in (" type or fully qualified", " for containers")],
        ),
        (
            {"resources": {"requests": {"example.com/gpu": "1"}}},
            [f"{C}.resources.limits: Required value: Limit must be set for non overcommitable resources"],
        ),
        ({"livenessProbe": {}}, [f"{C}.livenessProbe: Required value: must specify a handler type"]),
        (
            {"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}},
            [f"{C}.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            {"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}},
            [f"{C}.livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            {"readinessProbe": {"httpGet": {"port": 0}, "periodSeconds": -1}},
            [f"{C}.readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
             f"{C}.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            {"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}},
            [f"{C}.lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than "
             "terminationGracePeriodSeconds (30)"],
        ),
        (
            {"securityContext": {"runAsUser": -1}},
            [f"{C}.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, "
             "inclusive"],
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "Localhost"}}},
            [f"{C}.securityContext.seccompProfile.localhostProfile: Required value: "
             "must be set when seccomp type is Localhost"],
        ),
    ],
)  # fmt: skip
def test_containers(container, messages):
    assert faults(make(container, volumes=[{"name": "v", "emptyDir": {}}])) == messages


def test_privileged_without_escalation_makes_no_sense():
    context = {"allowPrivilegeEscalation": False, "privileged": True}
    (fault,) = faults(make({"securityContext": context}))
    assert fault.startswith(f"{C}.securityContext: Invalid value: ")
    assert fault.endswith("cannot set `allowPrivilegeEscalation` to false and `privileged` to true")


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        ({"containers": []}, ["spec.containers: Required value"]),
        (
            {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]},
            ['spec.containers[1].name: Duplicate value: "a"'],
        ),
        (
            {"initContainers": [{"name": "c", "image": "i"}]},
            ['spec.initContainers[0].name: Duplicate value: "c"'],
        ),
        (
            {"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]},
            ["spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without "
             "restartPolicy=Always"],
        ),
        (
            {"restartPolicy": "Sometimes"},
            ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: '
             '"Always", "OnFailure", "Never"'],
        ),
        (
            {"dnsPolicy": "x"},
            ['spec.dnsPolicy: Unsupported value: "x": supported values: '
             '"ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"'],
        ),
        (
            {"dnsPolicy": "None"},
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            {"dnsConfig": {"nameservers": ["x"]}},
            ['spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, '
             "(e.g. 10.9.8.7 or 2001:db8::ffff)"],
        ),
        ({"hostname": "A"}, [f'spec.hostname: Invalid value: "A": {LABEL}']),
        ({"serviceAccountName": "A"}, [f'spec.serviceAccountName: Invalid value: "A": {SUBDOMAIN}']),
        (
            {"activeDeadlineSeconds": 0},
            ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            {"shareProcessNamespace": True, "hostPID": True},
            ["spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot "
             "both be enabled"],
        ),
        (
            {"tolerations": [{"key": "k", "operator": "Like"}]},
            ['spec.tolerations[0].operator: Unsupported value: "Like": supported values: "Equal", "Exists"'],
        ),
        (
            {"tolerations": [{"operator": "Equal", "value": "x"}]},
            ['spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is '
             'empty, which means "match all values and all keys"'],
        ),
        (
            {"tolerations": [{"key": "k", "effect": "NoSchedule", "tolerationSeconds": 1}]},
            ['spec.tolerations[0].effect: Invalid value: "NoSchedule": effect must be \'NoExecute\' when '
             "`tolerationSeconds` is set"],
        ),
        ({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]},
         ['spec.volumes[1].name: Duplicate value: "v"']),
        (
            {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]},
            ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        ({"volumes": [{"name": "v", "configMap": {}}]}, ["spec.volumes[0].configMap.name: Required value"]),
        ({"volumes": [{"name": "v", "secret": {}}]}, ["spec.volumes[0].secret.secretName: Required value"]),
        (
            {"volumes": [{"name": "v", "hostPath": {"path": "/a/../b", "type": "Disk"}}]},
            ["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
             'spec.volumes[0].hostPath.type: Unsupported value: "Disk": supported values: "", "BlockDevice", '
             '"CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"'],
        ),
        (
            {"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 0o1000}}]},
            ["spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 "
             "(octal), both inclusive"],
        ),
        (
            {"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "/x"}]}}]},
            ['spec.volumes[0].configMap.items[0].path: Invalid value: "/x": must be a relative path'],
        ),
        (
            {"volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "a"}]}}]},
            ["spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"],
        ),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}},
            ["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: "
             "Required value: must have at least one node selector term"],
        ),
        (
            {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "x"}]},
            ["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
             "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
             'spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "x": supported values: '
             '"DoNotSchedule", "ScheduleAnyway"'],
        ),
        (
            {"securityContext": {"sysctls": [{"name": "A B", "value": "1"}]}},
            ['spec.securityContext.sysctls[0].name: Invalid value: "A B": must have at most 253 characters '
             r"and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"],
        ),
    ],
)  # fmt: skip
def test_specs(spec, messages):
    assert faults(make(**spec)) == messages


def test_host_network_needs_the_same_ports():
    obj = make({"ports": [{"containerPort": 80, "hostPort": 8080}]}, hostNetwork=True)
    assert faults(obj) == [
        f"{C}.ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true"
    ]


def test_all_faults_are_told_at_once_with_their_reasons():
    obj = make({"name": "", "image": ""}, metadata={"name": "Bad_Name"}, restartPolicy="x")
    assert [(f.field, f.reason) for f in validate_create("Pod", obj)] == [
        ("metadata.name", "FieldValueInvalid"),
        ("spec.containers[0].name", "FieldValueRequired"),
        ("spec.containers[0].image", "FieldValueRequired"),
        ("spec.restartPolicy", "FieldValueNotSupported"),
    ]


# Updates


def updated(change, subresource="", **spec):
    old = make(**spec)
    new = copy.deepcopy(old)
    change(new)
    return [str(f) for f in validate_update("Pod", new, old, subresource)]


def put(path, value):
    def change(obj):
        *holders, last = path
        for key in holders:
            obj = obj[key] if isinstance(key, int) else obj.setdefault(key, {})
        obj[last] = value

    return change


ALLOWED = (
    "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
    "previously negative)\n"
)


@pytest.mark.parametrize(
    "change",
    [
        lambda obj: None,
        put(("spec", "containers", 0, "image"), "other"),
        put(("spec", "activeDeadlineSeconds"), 5),
        put(("metadata", "labels"), {"a": "b"}),
        put(("metadata", "annotations"), {"a": "b"}),
        lambda obj: obj["spec"]["tolerations"].append({"key": "k", "operator": "Exists"}),
        lambda obj: obj["spec"]["tolerations"][0].update(tolerationSeconds=1),
        put(("spec", "hostNetwork"), False),
        put(("spec", "nodeSelector"), {}),
    ],
)
def test_what_may_change(change):
    assert updated(change) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(("spec", "hostname"), "h"), f'{ALLOWED}+ spec.hostname: "h"\n'),
        (
            put(("spec", "containers", 0, "name"), "d"),
            f'{ALLOWED}- spec.containers[0].name: "c"\n+ spec.containers[0].name: "d"\n',
        ),
        (put(("spec", "nodeName"), "n"), f'{ALLOWED}+ spec.nodeName: "n"\n'),
        (
            put(("spec", "serviceAccountName"), "x"),
            f'{ALLOWED}- spec.serviceAccountName: "default"\n+ spec.serviceAccountName: "x"\n',
        ),
        (
            lambda obj: obj["spec"]["containers"].append({"name": "d", "image": "i"}),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ),
        (put(("spec", "containers", 0, "image"), ""), "spec.containers[0].image: Required value"),
        (
            lambda obj: obj["spec"]["tolerations"].pop(),
            "spec.tolerations: Forbidden: existing toleration can not be modified except its "
            "tolerationSeconds",
        ),
        (
            put(("metadata", "uid"), "x"),
            'metadata.uid: Invalid value: "x": field is immutable',
        ),
    ],
)
def test_what_may_not_change(change, message):
    assert updated(change) == [message]


def test_a_deadline_only_comes_nearer():
    assert updated(put(("spec", "activeDeadlineSeconds"), 9), activeDeadlineSeconds=10) == []
    assert updated(put(("spec", "activeDeadlineSeconds"), 11), activeDeadlineSeconds=10) == [
        "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"
    ]
    assert updated(lambda obj: obj["spec"].pop("activeDeadlineSeconds"), activeDeadlineSeconds=10) == [
        "spec.activeDeadlineSeconds: Invalid value: null: "
        "must not update from a positive integer to nil value"
    ]


def test_a_binding_sets_the_node():
    assert updated(put(("spec", "nodeName"), "n"), "binding") == []


def test_an_ended_container_stays_ended_where_it_may_not_restart():
    ended = [{"name": "c", "state": {"terminated": {"exitCode": 1}}}]
    old = make(restartPolicy="Never") | {"status": {"containerStatuses": ended}}
    new = copy.deepcopy(old)
    new["status"]["containerStatuses"][0]["state"] = {"running": {}}
    message = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    assert [str(f) for f in validate_update("Pod", new, old, "status")] == [message]
    old["spec"]["restartPolicy"] = "OnFailure"
    assert validate_update("Pod", new, old, "status") == []
