"""Every kind but the pod: what is refused, and in which words."""

import copy

import pytest

from podling.api import schema as sch
from podling.api.defaults import apply_defaults
from podling.api.validation import validate_create, validate_update

GLOBAL = ("Namespace", "Node")


def make(kind, **fields):
    metadata = {"name": "x"} if kind in GLOBAL else {"name": "x", "namespace": "default"}
    obj = {"metadata": metadata | fields.pop("metadata", {}), **fields}
    schema = sch.schema()
    ref = schema.ref("coordination.k8s.io/v1" if kind == "Lease" else "v1", kind)
    assert schema.decode_strict(ref, obj) == []
    apply_defaults(kind, obj)
    return obj


def faults(kind, **fields):
    return [str(f) for f in validate_create(kind, make(kind, **fields))]


def updated(kind, change, **fields):
    old = make(kind, **fields)
    new = copy.deepcopy(old)
    change(new)
    return [str(f) for f in validate_update(kind, new, old)]


PORTS = [{"port": 80}]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ConfigMap", {"data": {"a.b": "c"}, "binaryData": {"x": "eA=="}}),
        ("Secret", {"stringData": {"a": "b"}}),
        ("Secret", {"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}),
        ("Service", {"spec": {"ports": PORTS, "selector": {"a": "b"}}}),
        ("Service", {"spec": {"clusterIP": "None"}}),
        ("Service", {"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        ("Service", {"spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30000}]}}),
        ("Endpoints", {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]}),
        ("Node", {"spec": {"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        ("Namespace", {}),
        ("ServiceAccount", {}),
        ("Lease", {"spec": {"leaseDurationSeconds": 40, "holderIdentity": "n"}}),
        ("Event", {"involvedObject": {"namespace": "default", "kind": "Pod", "name": "p"}}),
        ("Event", {"involvedObject": {"kind": "Node", "name": "n"}}),
    ],
)
def test_good_objects(kind, fields):
    assert faults(kind, **fields) == []


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("ConfigMap", {"data": {"..x": "y"}},
         'data[..x]: Invalid value: "..x": must not start with \'..\''),
        ("ConfigMap", {"data": {"a": ""}, "binaryData": {"a": ""}},
         'data[a]: Invalid value: "a": duplicate of key present in binaryData'),
        ("ConfigMap", {"data": {"a": "x" * (1 << 20) + "x"}},
         "[]: Too long: may not be more than 1048576 bytes"),
        ("Secret", {"stringData": {"a": "x" * (1 << 20) + "x"}},
         "data: Too long: may not be more than 1048576 bytes"),
        ("Secret", {"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, "data[tls.key]: Required value"),
        ("Secret", {"type": "kubernetes.io/service-account-token"},
         "metadata.annotations[kubernetes.io/service-account.name]: Required value"),
        ("Secret", {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}},
         'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character'),
        ("Service", {"spec": {}}, "spec.ports: Required value"),
        ("Service", {"spec": {"ports": [{"port": 0, "targetPort": 1}]}},
         "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        ("Service", {"spec": {"type": "x", "ports": PORTS}},
         'spec.type: Unsupported value: "x": supported values: "ClusterIP", "ExternalName", "LoadBalancer", '
         '"NodePort"'),
        ("Service", {"spec": {"ports": [{"port": 80, "nodePort": 30000}]}},
         "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
        ("Service", {"spec": {"type": "ExternalName"}}, "spec.externalName: Required value"),
        ("Service", {"metadata": {"name": "1x"}, "spec": {"ports": PORTS}},
         'metadata.name: Invalid value: "1x": a DNS-1035 label must consist of lower case alphanumeric '
         "characters or '-', start with an alphabetic character, and end with an alphanumeric character "
         "(e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"),
        ("Endpoints", {"subsets": [{"ports": [{"port": 1}]}]},
         "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"),
        ("Endpoints", {"subsets": [{"addresses": [{"ip": "x"}]}]},
         'subsets[0].addresses[0].ip: Invalid value: "x": must be a valid IP address, '
         "(e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("Node", {"spec": {"taints": [{"key": "a", "effect": "Never"}]}},
         'spec.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", '
         '"PreferNoSchedule", "NoExecute"'),
        ("Node", {"spec": {"podCIDRs": ["10.0.0.1"]}},
         'spec.podCIDRs[0]: Invalid value: "10.0.0.1": must be a valid CIDR value, '
         "(e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("Namespace", {"metadata": {"name": "a.b"}},
         'metadata.name: Invalid value: "a.b": must not contain dots'),
        ("Namespace", {"metadata": {"namespace": "y"}},
         "metadata.namespace: Forbidden: not allowed on this type"),
        ("Lease", {"spec": {"leaseDurationSeconds": 0}},
         "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"),
        ("Event", {"involvedObject": {"namespace": "other"}},
         'involvedObject.namespace: Invalid value: "other": does not match event.namespace'),
    ],
)  # fmt: skip
def test_bad_objects(kind, fields, message):
    assert faults(kind, **fields) == [message]


def test_several_ports_need_names_and_differ():
    assert faults("Service", spec={"ports": [{"port": 80}, {"port": 80, "name": "b"}]}) == [
        "spec.ports[0].name: Required value",
        'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}',
    ]


def test_an_immutable_config_map_stays_as_it_is():
    frozen = {"immutable": True, "data": {"a": "b"}}
    text = "Forbidden: field is immutable when `immutable` is set"
    assert updated("ConfigMap", lambda o: o["data"].update(a="c"), **frozen) == [f"data: {text}"]
    assert updated("ConfigMap", lambda o: o.pop("immutable"), **frozen) == [f"immutable: {text}"]
    assert updated("ConfigMap", lambda o: o["data"].update(a="c"), data={"a": "b"}) == []


def test_a_secrets_type_is_for_life():
    assert updated("Secret", lambda o: o.update(type="x")) == ['type: Invalid value: "x": field is immutable']


def test_a_cluster_ip_is_for_life():
    spec = {"ports": PORTS, "clusterIP": "10.96.0.9"}
    assert updated("Service", lambda o: o["spec"].update(clusterIP="10.96.0.8"), spec=spec) == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set'
    ]
    assert updated("Service", lambda o: o["spec"].update(selector={"a": "b"}), spec=spec) == []


def test_a_nodes_subnet_is_for_life():
    spec = {"podCIDRs": ["10.244.1.0/24"]}
    assert updated("Node", lambda o: o["spec"].update(podCIDRs=["10.244.2.0/24"]), spec=spec) == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'
    ]
    assert updated("Node", lambda o: o.setdefault("spec", {}).update(podCIDRs=["10.244.2.0/24"])) == []


def test_no_finalizer_is_added_to_what_is_being_deleted():
    meta = {"deletionTimestamp": "2025-01-01T00:00:00Z", "finalizers": ["a/b"]}
    assert updated("ServiceAccount", lambda o: o["metadata"]["finalizers"].append("c/d"), metadata=meta) == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
        'found new finalizers []string{"c/d"}'
    ]
    assert updated("ServiceAccount", lambda o: o["metadata"].pop("finalizers"), metadata=meta) == []


def test_a_kind_without_rules_of_its_own_has_its_metadata_checked():
    obj = {"metadata": {"name": "A"}}
    assert [f.field for f in validate_create("Widget", obj)] == ["metadata.name"]
    assert validate_update("Widget", {"metadata": {"name": "a"}}, {"metadata": {"name": "a"}}) == []
