"""Lists: selectors, pages, revisions, representations."""

from __future__ import annotations

import pytest

from podling.store import memory
from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def names(answer):
    return [item["metadata"]["name"] for item in answer["items"]]


async def test_a_list_has_a_version_and_items_without_kind(api):
    await api.created(CONFIG_MAPS, config_map("b"))
    made = await api.created(CONFIG_MAPS, config_map("a", x="1"))
    status, answer = await api.get(CONFIG_MAPS)
    assert (status, answer["kind"], answer["apiVersion"]) == (200, "ConfigMapList", "v1")
    assert answer["metadata"] == {"resourceVersion": str(api.cluster.store.revision)}
    assert names(answer) == ["a", "b"]
    del made["kind"], made["apiVersion"]
    assert answer["items"][0] == made


async def test_an_empty_list_has_no_items(api):
    _, answer = await api.get(PODS)
    assert answer["items"] == []


async def test_namespaces_are_apart_and_can_be_listed_together(api):
    await api.created(CONFIG_MAPS, config_map("a"))
    await api.created("/api/v1/namespaces/kube-system/configmaps", config_map("b"))
    assert names((await api.get(CONFIG_MAPS))[1]) == ["a"]
    assert names((await api.get("/api/v1/configmaps"))[1]) == ["a", "b"]


async def test_selectors_choose(api):
    for name, labels in (("a", {"tier": "front"}), ("b", {"tier": "back"}), ("c", {})):
        await api.created(CONFIG_MAPS, config_map(name, labels=labels))
    assert names((await api.get(CONFIG_MAPS, labelSelector="tier=front"))[1]) == ["a"]
    assert names((await api.get(CONFIG_MAPS, labelSelector="tier!=front"))[1]) == ["b", "c"]
    assert names((await api.get(CONFIG_MAPS, labelSelector="tier in (front,back)"))[1]) == ["a", "b"]
    assert names((await api.get(CONFIG_MAPS, labelSelector="!tier"))[1]) == ["c"]
    assert names((await api.get(CONFIG_MAPS, fieldSelector="metadata.name=b"))[1]) == ["b"]


async def test_pods_can_be_chosen_by_node(api):
    await api.created(PODS, pod("here", nodeName="n1"))
    await api.created(PODS, pod("there", nodeName="n2"))
    await api.created(PODS, pod("nowhere"))
    assert names((await api.get(PODS, fieldSelector="spec.nodeName=n1"))[1]) == ["here"]
    assert names((await api.get(PODS, fieldSelector="spec.nodeName="))[1]) == ["nowhere"]
    assert names((await api.get(PODS, fieldSelector="status.phase!=Pending"))[1]) == []


async def test_a_selector_that_cannot_be_read_is_refused(api):
    status, answer = await api.get(PODS, labelSelector="a in b")
    assert (status, answer["reason"]) == (400, "BadRequest")
    status, answer = await api.get(PODS, fieldSelector="spec.nope=1")
    assert status == 400
    assert "field label not supported: spec.nope" in answer["message"]


async def test_pages_show_one_moment(api):
    for name in "abcde":
        await api.created(CONFIG_MAPS, config_map(name))
    _, first = await api.get(CONFIG_MAPS, limit="2")
    assert names(first) == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.delete(f"{CONFIG_MAPS}/d")
    await api.created(CONFIG_MAPS, config_map("cc"))
    _, second = await api.get(CONFIG_MAPS, limit="2", continue_=first["metadata"]["continue"])
    assert names(second) == ["c", "d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    _, last = await api.get(CONFIG_MAPS, limit="2", continue_=second["metadata"]["continue"])
    assert names(last) == ["e"]
    assert "continue" not in last["metadata"]


async def test_pages_of_a_selection_are_full(api):
    for number in range(6):
        labels = {"odd": "yes"} if number % 2 else {}
        await api.created(CONFIG_MAPS, config_map(f"m{number}", labels=labels))
    _, first = await api.get(CONFIG_MAPS, limit="2", labelSelector="odd")
    assert names(first) == ["m1", "m3"]
    token = first["metadata"]["continue"]
    _, last = await api.get(CONFIG_MAPS, limit="2", labelSelector="odd", continue_=token)
    assert names(last) == ["m5"]


async def test_a_page_that_is_too_old_is_gone(api):
    for name in "abc":
        await api.created(CONFIG_MAPS, config_map(name))
    _, first = await api.get(CONFIG_MAPS, limit="1")
    await api.created(CONFIG_MAPS, config_map("d"))
    await api.cluster.store.compact(api.cluster.store.revision)
    status, answer = await api.get(CONFIG_MAPS, limit="1", continue_=first["metadata"]["continue"])
    assert (status, answer["reason"]) == (410, "Expired")
    assert answer["message"].startswith("The provided continue parameter is too old")


@pytest.mark.parametrize("token", ["nonsense!", "e30", "eyJ2IjoieCIsInJ2IjoxLCJzdGFydCI6IiJ9"])
async def test_a_continue_token_that_is_not_ours_is_refused(api, token):
    status, answer = await api.get(CONFIG_MAPS, continue_=token)
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert answer["message"].startswith("continue key is not valid")


async def test_an_exact_version_is_what_was_there(api):
    await api.created(CONFIG_MAPS, config_map("a"))
    at = str(api.cluster.store.revision)
    await api.created(CONFIG_MAPS, config_map("b"))
    query = {"resourceVersion": at, "resourceVersionMatch": "Exact"}
    _, answer = await api.get(CONFIG_MAPS, **query)
    assert (names(answer), answer["metadata"]["resourceVersion"]) == (["a"], at)
    _, answer = await api.get(CONFIG_MAPS, **{**query, "resourceVersionMatch": "NotOlderThan"})
    assert names(answer) == ["a", "b"]
    _, answer = await api.get(CONFIG_MAPS, resourceVersion="0")
    assert names(answer) == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersion": "x"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422),
        ({"resourceVersionMatch": "Sometimes", "resourceVersion": "1"}, 422),
        ({"resourceVersion": "99999"}, 504),
        ({"limit": "many"}, 400),
    ],
)
async def test_versions_that_make_no_sense(api, query, code):
    assert (await api.get(CONFIG_MAPS, **query))[0] == code


async def test_a_forgotten_version_is_expired(api, monkeypatch):
    monkeypatch.setattr(memory, "MAX_EVENTS", 2)
    for name in "abcd":
        await api.created(CONFIG_MAPS, config_map(name))
    status, answer = await api.get(CONFIG_MAPS, resourceVersion="2", resourceVersionMatch="Exact")
    assert (status, answer["reason"]) == (410, "Expired")


async def test_tables_have_rows_with_metadata(api):
    await api.created(PODS, pod())
    _, answer = await api.get(PODS, accept=TABLE)
    assert (answer["kind"], answer["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [c["name"] for c in answer["columnDefinitions"]][:5] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]
    (row,) = answer["rows"]
    assert row["cells"][:3] == ["web", "0/1", "Pending"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert set(row["object"]) == {"kind", "apiVersion", "metadata"}
    _, answer = await api.get(f"{PODS}/web", accept=TABLE, includeObject="Object")
    assert answer["rows"][0]["object"]["kind"] == "Pod"
    _, answer = await api.get(PODS, accept=TABLE, includeObject="None")
    assert "object" not in answer["rows"][0]
    assert (await api.get(PODS, accept=TABLE, includeObject="Some"))[0] == 400


async def test_metadata_alone_can_be_had(api):
    await api.created(PODS, pod())
    _, answer = await api.get(PODS, accept=PARTIAL)
    assert answer["kind"] == "PartialObjectMetadataList"
    assert set(answer["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_yaml_can_be_had(api):
    await api.created(CONFIG_MAPS, config_map(a="b"))
    status, answer = await api.get(f"{CONFIG_MAPS}/settings", accept="application/yaml")
    assert status == 200
    assert b"data:\n  a: b\n" in answer


async def test_protobuf_clients_get_json_if_they_take_it_and_else_a_refusal(api):
    accept = "application/vnd.kubernetes.protobuf,application/json"
    assert (await api.get(PODS, accept=accept))[0] == 200
    status, answer = await api.get(PODS, accept="application/vnd.kubernetes.protobuf")
    assert (status, answer["reason"]) == (406, "NotAcceptable")
