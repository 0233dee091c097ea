"""DELETE: grace periods, finalizers, preconditions, collections, namespaces."""

from __future__ import annotations

from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod

WEB = f"{PODS}/web"
SETTINGS = f"{CONFIG_MAPS}/settings"


async def test_a_deleted_object_is_gone(api):
    made = await api.created(CONFIG_MAPS, config_map())
    status, answer = await api.delete(SETTINGS)
    assert (status, answer["status"]) == (200, "Success")
    assert answer["details"] == {
        "name": "settings",
        "kind": "configmaps",
        "uid": made["metadata"]["uid"],
    }
    assert (await api.get(SETTINGS))[0] == 404
    status, answer = await api.delete(SETTINGS)
    assert (status, answer["message"]) == (404, 'configmaps "settings" not found')


async def test_preconditions_guard_against_deleting_a_namesake(api):
    made = await api.created(CONFIG_MAPS, config_map())
    status, answer = await api.delete(SETTINGS, {"preconditions": {"uid": "other"}})
    assert status == 409
    assert "the UID in the precondition (other) does not match the UID in record" in answer["message"]
    status, answer = await api.delete(SETTINGS, {"preconditions": {"resourceVersion": "1"}})
    assert status == 409
    assert "the ResourceVersion in the precondition (1)" in answer["message"]
    preconditions = {key: made["metadata"][key] for key in ("uid", "resourceVersion")}
    assert (await api.delete(SETTINGS, {"preconditions": preconditions}))[0] == 200


async def test_a_pod_without_a_node_is_deleted_at_once(api):
    made = await api.created(PODS, pod())
    status, answer = await api.delete(WEB)
    assert (status, answer["kind"]) == (200, "Pod")
    assert answer["metadata"]["uid"] == made["metadata"]["uid"]
    assert (await api.get(WEB))[0] == 404


async def test_a_running_pod_is_left_to_its_kubelet(api):
    await api.created(PODS, pod(nodeName="n1"))
    status, answer = await api.delete(WEB)
    assert status == 200
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 30
    assert answer["metadata"]["deletionTimestamp"] > answer["metadata"]["creationTimestamp"]
    assert answer["metadata"]["generation"] == 2
    _, still = await api.get(WEB)
    assert still["metadata"] == answer["metadata"]
    status, _ = await api.delete(WEB, {"gracePeriodSeconds": 0})
    assert status == 200
    assert (await api.get(WEB))[0] == 404


async def test_a_grace_period_can_only_be_shortened(api):
    await api.created(PODS, pod(nodeName="n1"))
    _, first = await api.delete(WEB, {"gracePeriodSeconds": 60})
    _, again = await api.delete(WEB, {"gracePeriodSeconds": 90})
    assert again["metadata"] == first["metadata"]
    _, shorter = await api.delete(WEB, {"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < first["metadata"]["deletionTimestamp"]
    _, default = await api.delete(WEB)
    assert default["metadata"] == shorter["metadata"]


async def test_a_finished_pod_is_deleted_at_once(api):
    await api.created(PODS, pod(nodeName="n1"))
    await api.patch(f"{WEB}/status", {"status": {"phase": "Succeeded"}})
    await api.delete(WEB)
    assert (await api.get(WEB))[0] == 404


async def test_an_object_waits_for_its_finalizers(api):
    body = config_map()
    body["metadata"]["finalizers"] = ["example.com/wait"]
    await api.created(CONFIG_MAPS, body)
    status, marked = await api.delete(SETTINGS)
    assert (status, marked["metadata"]["deletionGracePeriodSeconds"]) == (200, 0)
    assert (await api.get(SETTINGS))[0] == 200
    status, last = await api.patch(SETTINGS, {"metadata": {"finalizers": None}})
    assert status == 200
    assert "finalizers" not in last["metadata"]
    assert (await api.get(SETTINGS))[0] == 404


async def test_a_pod_with_finalizers_outlives_its_grace_period(api):
    body = pod(nodeName="n1")
    body["metadata"]["finalizers"] = ["example.com/wait"]
    await api.created(PODS, body)
    await api.delete(WEB, {"gracePeriodSeconds": 0})
    assert (await api.get(WEB))[0] == 200
    await api.patch(WEB, [{"op": "remove", "path": "/metadata/finalizers"}], "json")
    assert (await api.get(WEB))[0] == 404


async def test_the_deletion_time_cannot_be_taken_back(api):
    await api.created(PODS, pod(nodeName="n1"))
    _, marked = await api.delete(WEB)
    _, after = await api.patch(WEB, {"metadata": {"deletionTimestamp": None, "labels": {"a": "b"}}})
    assert after["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]


async def test_a_dry_run_deletes_nothing(api):
    await api.created(CONFIG_MAPS, config_map())
    assert (await api.delete(SETTINGS, dryRun="All"))[0] == 200
    assert (await api.get(SETTINGS))[0] == 200
    assert (await api.delete(SETTINGS, {"dryRun": ["All"]}))[0] == 200
    assert (await api.get(SETTINGS))[0] == 200


async def test_an_unknown_propagation_policy_is_refused(api):
    await api.created(CONFIG_MAPS, config_map())
    status, _ = await api.delete(SETTINGS, {"propagationPolicy": "Perhaps"})
    assert status == 422
    assert (await api.delete(SETTINGS, {"propagationPolicy": "Foreground"}))[0] == 200


async def test_a_collection_is_deleted_by_its_selector(api):
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        await api.created(CONFIG_MAPS, config_map(name, labels={"colour": colour}))
    status, answer = await api.delete(CONFIG_MAPS, labelSelector="colour=red")
    assert (status, [i["metadata"]["name"] for i in answer["items"]]) == (200, ["a", "c"])
    _, left = await api.get(CONFIG_MAPS)
    assert [i["metadata"]["name"] for i in left["items"]] == ["b"]


async def test_a_namespace_stays_until_it_is_finalized(api):
    await api.created("/api/v1/namespaces", {"metadata": {"name": "team"}})
    status, answer = await api.delete("/api/v1/namespaces/team")
    assert (status, answer["status"]["phase"]) == (200, "Terminating")
    status, again = await api.delete("/api/v1/namespaces/team")
    assert again == answer
    _, after = await api.put("/api/v1/namespaces/team", {**answer, "spec": {}})
    assert after["spec"]["finalizers"] == ["kubernetes"]
    status, _ = await api.put("/api/v1/namespaces/team/finalize", {**answer, "spec": {}})
    assert status == 200
    assert (await api.get("/api/v1/namespaces/team"))[0] == 404


async def test_the_first_namespaces_cannot_be_deleted(api):
    status, answer = await api.delete("/api/v1/namespaces/default")
    assert (status, answer["message"]) == (
        403,
        'namespaces "default" is forbidden: this namespace may not be deleted',
    )
