"""POST: identity, defaults, names, namespaces, validation, dry run."""

from __future__ import annotations

import re

from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod


async def test_an_object_gets_its_identity_from_the_server(api):
    body = config_map(a="1")
    body["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "deletionTimestamp": "2001-01-01T00:00:00Z",
        "managedFields": [{"manager": "x"}],
        "generation": 7,
    }
    made = await api.created(CONFIG_MAPS, body)
    metadata = made["metadata"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", metadata["uid"])
    assert not metadata["creationTimestamp"].startswith("2001")
    assert metadata["namespace"] == "default"
    assert int(metadata["resourceVersion"]) == api.cluster.store.revision
    assert {"deletionTimestamp", "managedFields", "generation"} & set(metadata) == set()
    assert (made["kind"], made["apiVersion"], made["data"]) == ("ConfigMap", "v1", {"a": "1"})
    assert await api.get(f"{CONFIG_MAPS}/settings") == (200, made)


async def test_a_name_can_be_taken_once(api):
    await api.created(CONFIG_MAPS, config_map())
    status, answer = await api.post(CONFIG_MAPS, config_map())
    assert (status, answer["reason"]) == (409, "AlreadyExists")
    assert answer["message"] == 'configmaps "settings" already exists'
    assert answer["details"] == {"name": "settings", "kind": "configmaps"}


async def test_a_name_can_be_generated(api):
    body = {"metadata": {"generateName": "job-"}}
    first, second = await api.created(CONFIG_MAPS, body), await api.created(CONFIG_MAPS, body)
    names = {obj["metadata"]["name"] for obj in (first, second)}
    assert len(names) == 2
    assert all(re.fullmatch(r"job-[a-z0-9]{5}", name) for name in names)


async def test_a_generated_name_that_is_taken_is_generated_again(api, monkeypatch):
    await api.created(CONFIG_MAPS, config_map("job-aaaaa"))
    suffixes = iter(["aaaaa", "bbbbb"])
    monkeypatch.setattr("podling.apiserver.registry.generate_name", lambda base: base + next(suffixes))
    made = await api.created(CONFIG_MAPS, {"metadata": {"generateName": "job-"}})
    assert made["metadata"]["name"] == "job-bbbbb"


async def test_a_pod_starts_pending_whatever_status_it_came_with(api):
    body = pod() | {"status": {"phase": "Running"}}
    made = await api.created(PODS, body)
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["restartPolicy"] == "Always"


async def test_a_node_keeps_the_status_it_registers_with(api):
    body = {"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "2"}}}
    made = await api.created("/api/v1/nodes", body)
    assert made["status"]["capacity"] == {"cpu": "2"}


async def test_an_invalid_object_is_refused_with_every_fault(api):
    status, answer = await api.post(PODS, pod("Bad_Name") | {"spec": {"containers": []}})
    assert (status, answer["reason"]) == (422, "Invalid")
    assert answer["message"].startswith(
        'Pod "Bad_Name" is invalid: [metadata.name: Invalid value: "Bad_Name"'
    )
    assert {cause["field"] for cause in answer["details"]["causes"]} == {"metadata.name", "spec.containers"}


async def test_the_namespace_must_exist(api):
    status, answer = await api.post("/api/v1/namespaces/nope/configmaps", config_map())
    assert (status, answer["message"]) == (404, 'namespaces "nope" not found')


async def test_the_namespace_must_not_be_terminating(api):
    await api.created("/api/v1/namespaces", {"metadata": {"name": "old"}})
    await api.delete("/api/v1/namespaces/old")
    status, answer = await api.post("/api/v1/namespaces/old/configmaps", config_map())
    assert status == 403
    assert answer["message"] == (
        'configmaps "settings" is forbidden: unable to create new content in namespace old '
        "because it is being terminated"
    )
    assert answer["details"]["causes"][0]["reason"] == "NamespaceTerminating"


async def test_body_and_url_must_name_the_same_namespace(api):
    body = config_map()
    body["metadata"]["namespace"] = "kube-system"
    status, answer = await api.post(CONFIG_MAPS, body)
    assert status == 400
    assert answer["message"] == (
        "the namespace of the provided object does not match the namespace sent on the request"
    )


async def test_a_resource_version_has_no_place_in_a_create(api):
    body = config_map()
    body["metadata"]["resourceVersion"] = "5"
    status, answer = await api.post(CONFIG_MAPS, body)
    assert answer["message"] == "resourceVersion should not be set on objects to be created"
    assert status == 500


async def test_a_dry_run_shows_the_result_and_stores_nothing(api):
    before = api.cluster.store.revision
    status, made = await api.post(PODS, pod(), dryRun="All")
    assert (status, made["status"]["phase"]) == (201, "Pending")
    assert made["metadata"]["uid"]
    assert api.cluster.store.revision == before
    status, answer = await api.post(PODS, pod(), dryRun="Some")
    assert (status, answer["reason"]) == (422, "Invalid")


async def test_the_standard_namespaces_and_the_kubernetes_service_are_there(api):
    _, namespaces = await api.get("/api/v1/namespaces")
    names = [item["metadata"]["name"] for item in namespaces["items"]]
    assert names == ["default", "kube-node-lease", "kube-public", "kube-system"]
    _, service = await api.get("/api/v1/namespaces/default/services/kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    _, endpoints = await api.get("/api/v1/namespaces/default/endpoints/kubernetes")
    assert endpoints["subsets"][0]["addresses"] == [{"ip": "127.0.0.1"}]
