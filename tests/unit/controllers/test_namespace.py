from __future__ import annotations

from podling.controllers.namespace import Resource, _Remaining, deletable


def test_only_what_can_be_listed_and_deleted_in_a_namespace() -> None:
    everything = ["create", "delete", "deletecollection", "get", "list"]
    resources = [
        {"name": "pods", "namespaced": True, "verbs": everything},
        {"name": "pods/log", "namespaced": True, "verbs": everything},
        {"name": "nodes", "namespaced": False, "verbs": everything},
        {"name": "bindings", "namespaced": True, "verbs": ["create"]},
    ]
    found = deletable("", "v1", resources)
    assert found == [Resource("", "v1", "pods", frozenset(everything))]
    assert found[0].path("dev") == "/api/v1/namespaces/dev/pods"
    lease = Resource("coordination.k8s.io", "v1", "leases", frozenset())
    assert lease.path("dev") == "/apis/coordination.k8s.io/v1/namespaces/dev/leases"


def test_conditions_name_what_is_waited_for() -> None:
    content, held = _Remaining({"pods.": 2, "configmaps.": 1}, {"example.com/keep": 1}).conditions()
    assert content["message"] == (
        "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances"
    )
    assert (held["status"], held["message"]) == (
        "True",
        "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances",
    )


def test_pods_alone_end_by_themselves() -> None:
    assert _Remaining({"pods.": 2}, {}).only_pods
    assert not _Remaining({"pods.": 2}, {"example.com/keep": 1}).only_pods
    assert not _Remaining({"pods.": 2, "secrets.": 1}, {}).only_pods
