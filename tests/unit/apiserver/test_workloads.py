"""Workloads: the scale subresource, generations, propagation of deletes, validation."""

from __future__ import annotations

from typing import Any

import pytest

from unit.apiserver.harness import CONFIG_MAPS, config_map

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
WEB = f"{DEPLOYMENTS}/web"
RCS = "/api/v1/namespaces/default/replicationcontrollers"
SETTINGS = f"{CONFIG_MAPS}/settings"


def template(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web"}], **spec},
    }


def deployment(**spec: Any) -> dict[str, Any]:
    wanted = {"selector": {"matchLabels": {"app": "web"}}, "template": template(), **spec}
    return {"metadata": {"name": "web"}, "spec": wanted}


def controller() -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"template": template()}}


async def test_defaults_are_filled_in(api):
    made = await api.created(DEPLOYMENTS, deployment())
    spec = made["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    rolling = {"maxSurge": "25%", "maxUnavailable": "25%"}
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert (made["status"], made["metadata"]["generation"]) == ({}, 1)
    made = await api.created(RCS, controller())
    assert made["spec"]["selector"] == made["metadata"]["labels"] == {"app": "web"}
    assert made["status"] == {"replicas": 0}


async def test_scale_reads_and_writes_the_replicas(api):
    await api.created(DEPLOYMENTS, deployment())
    _, scale = await api.get(f"{WEB}/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == {"replicas": 0, "selector": "app=web"}
    scale["spec"]["replicas"] = 4
    status, scaled = await api.put(f"{WEB}/scale", scale)
    assert (status, scaled["spec"]["replicas"]) == (200, 4)
    assert (await api.put(f"{WEB}/scale", scale))[0] == 409  # its resourceVersion is old
    for kind in ("merge", "strategic"):
        status, scaled = await api.patch(f"{WEB}/scale", {"spec": {"replicas": 0}}, kind)
        assert (status, scaled["spec"]) == (200, {})
    _, found = await api.get(WEB)
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (0, 3)
    status, refused = await api.patch(f"{WEB}/scale", {"spec": {"replicas": -1}})
    assert status == 422
    assert refused["message"] == (
        'Scale.autoscaling "web" is invalid: spec.replicas: Invalid value: -1: '
        "must be greater than or equal to 0"
    )
    await api.created(RCS, controller())
    _, scale = await api.get(f"{RCS}/web/scale")
    assert scale["status"]["selector"] == "app=web"


async def test_the_status_is_the_controllers_and_its_annotations_do_not_count(api):
    await api.created(DEPLOYMENTS, deployment())
    change = {
        "metadata": {"annotations": {"a": "b"}, "labels": {"no": "no"}},
        "spec": {"replicas": 9},
        "status": {"replicas": 1},
    }
    _, found = await api.patch(f"{WEB}/status", change)
    assert (found["spec"]["replicas"], found["status"]) == (1, {"replicas": 1})
    assert found["metadata"]["annotations"] == {"a": "b"}
    assert "labels" not in found["metadata"]
    assert found["metadata"]["generation"] == 1
    _, found = await api.patch(WEB, {"metadata": {"annotations": {"c": "d"}}, "status": {"replicas": 7}})
    assert (found["status"], found["metadata"]["generation"]) == ({"replicas": 1}, 2)


@pytest.mark.parametrize(
    ("policy", "finalizer"), [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")]
)
async def test_a_policy_is_a_finalizer_until_the_collector_has_come(api, policy, finalizer):
    await api.created(CONFIG_MAPS, config_map())
    status, marked = await api.delete(SETTINGS, {"propagationPolicy": policy})
    assert status == 200
    assert marked["metadata"]["finalizers"] == [finalizer]
    assert marked["metadata"]["deletionTimestamp"]
    _, again = await api.delete(SETTINGS)  # without a policy: as decided
    assert again["metadata"]["finalizers"] == [finalizer]
    assert (await api.patch(SETTINGS, {"metadata": {"finalizers": None}}))[0] == 200
    assert (await api.get(SETTINGS))[0] == 404


async def test_a_later_delete_may_decide_otherwise(api):
    await api.created(CONFIG_MAPS, config_map())
    await api.delete(SETTINGS, propagationPolicy="Foreground")
    _, marked = await api.delete(SETTINGS, {"orphanDependents": True})
    assert marked["metadata"]["finalizers"] == ["orphan"]
    status, gone = await api.delete(SETTINGS, {"propagationPolicy": "Background"})
    assert (status, gone["status"]) == (200, "Success")


async def test_a_replication_controller_lets_go_of_its_pods_by_default(api):
    await api.created(RCS, controller())
    _, marked = await api.delete(f"{RCS}/web")
    assert marked["metadata"]["finalizers"] == ["orphan"]
    await api.created(DEPLOYMENTS, deployment())
    assert (await api.delete(WEB))[1]["status"] == "Success"


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"replicas": -1}, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ({"selector": None}, "spec.selector: Required value"),
        (
            {"selector": {"matchLabels": {"app": "other"}}},
            'spec.template.metadata.labels: Invalid value: {"app":"web"}: '
            "`selector` does not match template `labels`",
        ),
        (
            {"template": template(restartPolicy="Never")},
            'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
        ),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            {"strategy": {"rollingUpdate": {"maxUnavailable": "110%"}}},
            'spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "110%": '
            "must not be greater than 100%",
        ),
        (
            {"progressDeadlineSeconds": 5, "minReadySeconds": 5},
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ),
        ({"template": {"spec": {}}}, "spec.template.spec.containers: Required value"),
    ],
)
async def test_a_deployment_is_refused_in_kubernetes_words(api, spec, fault):
    status, refused = await api.post(DEPLOYMENTS, deployment(**spec))
    assert status == 422, refused
    assert refused["message"].startswith('Deployment.apps "web" is invalid: ')
    assert fault in refused["message"]


async def test_an_endpoint_slice_has_addresses_of_its_type(api):
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    obj = {"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}
    status, refused = await api.post(path, obj)
    assert status == 422
    assert "endpoints[0].addresses[0]: Invalid value" in refused["message"]
    obj["endpoints"] = [{"addresses": ["10.0.0.1"]}]
    assert (await api.created(path, obj))["metadata"]["generation"] == 1
    _, found = await api.get(f"{path}/kubernetes")
    assert found["endpoints"][0]["addresses"] == ["127.0.0.1"]


async def test_volumes_and_claims_are_checked(api):
    status, refused = await api.post("/api/v1/persistentvolumes", {"metadata": {"name": "disk"}, "spec": {}})
    assert status == 422
    for fault in (
        "spec.accessModes: Required value",
        "spec.capacity: Required",
        "must specify a volume type",
    ):
        assert fault in refused["message"]
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    made = await api.created(claims, {"metadata": {"name": "data"}, "spec": spec})
    assert made["status"] == {"phase": "Pending"}
    _, refused = await api.patch(f"{claims}/data", {"spec": {"storageClassName": "fast"}})
    assert "spec is immutable after creation" in refused["message"]
