"""PUT and PATCH: identity, conflicts, what a status may change, generations, no-ops."""

from __future__ import annotations

import asyncio

import pytest

from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod

WEB = f"{PODS}/web"
SETTINGS = f"{CONFIG_MAPS}/settings"
MODIFIED = (
    'Operation cannot be fulfilled on configmaps "settings": the object has been modified; '
    "please apply your changes to the latest version and try again"
)


async def test_a_put_replaces_the_object_but_not_its_identity(api):
    made = await api.created(CONFIG_MAPS, config_map(a="1", labels={"x": "y"}))
    changed = config_map(b="2")
    changed["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    status, after = await api.put(SETTINGS, changed)
    assert (status, after["data"]) == (200, {"b": "2"})
    assert "labels" not in after["metadata"]
    for name in ("uid", "creationTimestamp", "namespace"):
        assert after["metadata"][name] == made["metadata"][name]
    assert int(after["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_a_put_on_an_old_version_conflicts(api):
    old = await api.created(CONFIG_MAPS, config_map(a="1"))
    await api.put(SETTINGS, config_map(a="2"))
    status, answer = await api.put(SETTINGS, old)
    assert (status, answer["reason"], answer["message"]) == (409, "Conflict", MODIFIED)


async def test_a_put_of_another_uid_conflicts(api):
    made = await api.created(CONFIG_MAPS, config_map())
    body = config_map()
    body["metadata"]["uid"] = "other"
    status, answer = await api.put(SETTINGS, body)
    assert status == 409
    assert answer["message"].endswith(
        f"Precondition failed: UID in precondition: other, UID in object meta: {made['metadata']['uid']}"
    )


async def test_body_and_url_must_name_the_same_object(api):
    await api.created(CONFIG_MAPS, config_map())
    status, answer = await api.put(SETTINGS, config_map("other"))
    assert status == 400
    assert answer["message"] == "the name of the object (other) does not match the name on the URL (settings)"


async def test_an_update_that_changes_nothing_writes_nothing(api):
    made = await api.created(CONFIG_MAPS, config_map(a="1"))
    before = api.cluster.store.revision
    assert await api.put(SETTINGS, config_map(a="1")) == (200, made)
    assert await api.patch(SETTINGS, {"data": {"a": "1"}}) == (200, made)
    assert api.cluster.store.revision == before


async def test_a_put_creates_only_kinds_that_allow_it(api):
    status, _ = await api.put(SETTINGS, config_map())
    assert status == 404
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"namespace": "default"},
        "reason": "Test",
    }
    status, _ = await api.put("/api/v1/namespaces/default/events/e", event)
    assert status == 201


async def test_a_lease_is_never_updated_unconditionally(api):
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    await api.created(leases, {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 40}})
    status, answer = await api.put(f"{leases}/l", {"metadata": {"name": "l"}})
    assert status == 422
    assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in answer["message"]


async def test_the_status_changes_only_through_its_subresource(api):
    await api.created(PODS, pod())
    _, after = await api.patch(WEB, {"status": {"phase": "Running"}})
    assert after["status"]["phase"] == "Pending"
    body = {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    _, after = await api.patch(f"{WEB}/status", body)
    assert after["status"] == {"phase": "Running", "qosClass": "BestEffort"}
    assert "nodeName" not in after["spec"]


async def test_the_generation_counts_changes_of_the_spec(api):
    await api.created(PODS, pod())
    _, after = await api.patch(WEB, {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["generation"] == 1
    patch = {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}
    _, after = await api.patch(WEB, patch, "strategic")
    assert after["metadata"]["generation"] == 2
    assert after["spec"]["containers"][0]["image"] == "nginx:2"


async def test_immutable_fields_stay(api):
    await api.created(PODS, pod())
    status, answer = await api.patch(WEB, {"spec": {"hostNetwork": True}})
    assert (status, answer["reason"]) == (422, "Invalid")
    assert "pod updates may not change fields other than" in answer["message"]


async def test_the_three_kinds_of_patch(api):
    await api.created(CONFIG_MAPS, config_map(a="1"))
    _, after = await api.patch(SETTINGS, [{"op": "add", "path": "/data/b", "value": "2"}], "json")
    assert after["data"] == {"a": "1", "b": "2"}
    _, after = await api.patch(SETTINGS, {"data": {"a": None}}, "merge")
    assert after["data"] == {"b": "2"}
    _, after = await api.patch(SETTINGS, {"data": {"$patch": "replace", "c": "3"}}, "strategic")
    assert after["data"] == {"c": "3"}


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("json", [{"op": "test", "path": "/data/a", "value": "2"}], 422),
        ("json", [{"op": "remove", "path": "/data/zzz"}], 422),
        ("json", {"data": {}}, 400),
        ("merge", [], 400),
        ("merge", {"metadata": None}, 400),
        ("merge", {"kind": "Pod"}, 400),
        ("merge", {"metadata": {"name": "other"}}, 400),
        ("strategic", b"{", 400),
    ],
)
async def test_patches_that_do_not_apply(api, kind, body, code):
    made = await api.created(CONFIG_MAPS, config_map(a="1"))
    status, answer = await api.patch(SETTINGS, body, kind)
    assert status == code, answer
    assert await api.get(SETTINGS) == (200, made)


async def test_a_patch_may_be_conditional(api):
    made = await api.created(CONFIG_MAPS, config_map(a="1"))
    version = made["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version}, "data": {"a": "2"}}
    assert (await api.patch(SETTINGS, patch))[0] == 200
    status, answer = await api.patch(SETTINGS, {**patch, "data": {"a": "3"}})
    assert (status, answer["message"]) == (409, MODIFIED)


async def test_server_side_apply_is_refused_clearly(api):
    await api.created(CONFIG_MAPS, config_map())
    status, answer = await api.call("PATCH", SETTINGS, {}, content_type="application/apply-patch+yaml")
    assert (status, answer["reason"]) == (415, "UnsupportedMediaType")
    assert "application/strategic-merge-patch+json" in answer["message"]


async def test_patches_at_once_all_count(api):
    await api.created(CONFIG_MAPS, config_map(a="1"))
    results = await asyncio.gather(*(api.patch(SETTINGS, {"data": {f"k{i}": "v"}}) for i in range(50)))
    assert {status for status, _ in results} == {200}
    _, after = await api.get(SETTINGS)
    assert len(after["data"]) == 51


async def test_of_puts_at_once_on_one_version_a_single_one_wins(api):
    made = await api.created(CONFIG_MAPS, config_map(a="1"))
    bodies = [{**made, "data": {"writer": str(i)}} for i in range(10)]
    results = await asyncio.gather(*(api.put(SETTINGS, body) for body in bodies))
    assert sorted(status for status, _ in results) == [200] + [409] * 9


async def test_a_dry_run_of_a_patch_stores_nothing(api):
    made = await api.created(CONFIG_MAPS, config_map(a="1"))
    status, after = await api.patch(SETTINGS, {"data": {"a": "2"}}, dryRun="All")
    assert (status, after["data"]) == (200, {"a": "2"})
    assert await api.get(SETTINGS) == (200, made)


async def test_a_pod_is_bound_once(api):
    made = await api.created(PODS, pod())
    binding = {
        "metadata": {"name": "web", "uid": made["metadata"]["uid"]},
        "target": {"kind": "Node", "name": "n1"},
    }
    status, answer = await api.post(f"{WEB}/binding", binding)
    assert (status, answer["status"]) == (201, "Success")
    _, bound = await api.get(WEB)
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    assert bound["status"]["conditions"][0]["status"] == "True"
    status, answer = await api.post(f"{WEB}/binding", binding)
    assert status == 409
    assert answer["message"].endswith('pod web is already assigned to node "n1"')


async def test_a_binding_for_another_pod_of_that_name_conflicts(api):
    await api.created(PODS, pod())
    binding = {"metadata": {"name": "web", "uid": "other"}, "target": {"name": "n1"}}
    status, answer = await api.post(f"{WEB}/binding", binding)
    assert status == 409
    assert "UID in precondition: other" in answer["message"]
