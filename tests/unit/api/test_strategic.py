import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.api import schema as sch
from podling.api.patch import PatchError, strategic_merge_patch


def apply(doc, patch, kind="Pod"):
    schema = sch.schema()
    ref = schema.ref("v1", kind)
    before = copy.deepcopy((doc, patch))
    result = strategic_merge_patch(doc, patch, schema, ref)
    assert (doc, patch) == before, "a patch changes neither of its arguments"
    return result


def spec(**fields):
    return {"spec": fields}


def containers(*names, **more):
    return [{"name": n, **more} for n in names]


def test_a_container_is_found_by_its_name():
    doc = spec(containers=[{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}])
    patch = spec(containers=[{"name": "a", "image": "y"}])
    assert apply(doc, patch)["spec"]["containers"] == [
        {"name": "a", "image": "y", "env": [{"name": "E", "value": "1"}]},
        {"name": "b"},
    ]


def test_what_kubectl_apply_sends_for_a_changed_image_and_a_removed_container():
    doc = spec(containers=[{"name": "a", "image": "x"}, {"name": "b", "image": "x"}], nodeName="n")
    patch = {
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"}},
        "spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "image": "y"}, {"$patch": "delete", "name": "b"}],
        },
    }
    assert apply(doc, patch) == {
        "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"}},
        "spec": {"containers": [{"name": "a", "image": "y"}], "nodeName": "n"},
    }


def test_the_order_the_client_wants_is_kept_and_what_only_the_server_has_stays_in_place():
    doc = spec(tolerations=[], containers=containers("server", "a", "b"))
    patch = {
        "spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                 "containers": [{"name": "c"}]}
    }  # fmt: skip
    names = [c["name"] for c in apply(doc, patch)["spec"]["containers"]]
    assert names == ["server", "b", "c", "a"]


def test_order_alone_reorders():
    doc = spec(containers=containers("a", "b"))
    patch = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert [c["name"] for c in apply(doc, patch)["spec"]["containers"]] == ["b", "a"]


def test_a_patch_out_of_its_own_order_is_refused():
    patch = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                      "containers": containers("a", "b")}}  # fmt: skip
    with pytest.raises(PatchError, match="The order in patch list"):
        apply(spec(containers=containers("a")), patch)


def test_retain_keys_changes_the_source_of_a_volume():
    doc = spec(volumes=[{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}])
    patch = spec(volumes=[{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}])
    assert apply(doc, patch)["spec"]["volumes"] == [
        {"name": "v", "hostPath": {"path": "/x"}},
        {"name": "w", "emptyDir": {}},
    ]


def test_retain_keys_must_name_what_the_patch_sets():
    with pytest.raises(PatchError, match="retainKeys"):
        apply({"spec": {"nodeName": "n"}}, {"spec": {"$retainKeys": ["nodeName"], "hostname": "h"}})


def test_scalars_are_added_ordered_and_deleted():
    doc = {"metadata": {"finalizers": ["a", "b"]}}
    directives = {"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]}
    patch = {"metadata": {**directives, "finalizers": ["c"]}}
    assert apply(doc, patch)["metadata"]["finalizers"] == ["c", "a"]
    assert apply(doc, {"metadata": {"finalizers": ["a", "z"]}})["metadata"]["finalizers"] == ["a", "z", "b"]


def test_null_removes_a_field_a_list_and_a_map_key():
    doc = {
        "metadata": {"labels": {"a": "1", "b": "2"}},
        "spec": {"volumes": [{"name": "v"}], "hostname": "h"},
    }
    patch = {
        "metadata": {"labels": {"a": None}},
        "spec": {"volumes": None, "hostname": None, "nodeName": None},
    }
    assert apply(doc, patch) == {"metadata": {"labels": {"b": "2"}}, "spec": {}}


def test_a_directive_is_only_one_where_directives_may_stand():
    patch = {"metadata": {"annotations": {"$retainKeys": "x", "$setElementOrder/y": "z"}}}
    assert apply({}, patch) == {"metadata": {"annotations": {}}} or apply(
        {"metadata": {"annotations": {}}}, patch
    )
    doc = {"metadata": {"annotations": {"a": "b"}}}
    assert apply(doc, patch)["metadata"]["annotations"]["$retainKeys"] == "x"


def test_replace_and_delete_of_a_whole_map():
    doc = {"metadata": {"labels": {"a": "1"}}, "spec": {"securityContext": {"runAsUser": 1}}}
    patch = {
        "metadata": {"labels": {"$patch": "replace", "b": "2"}},
        "spec": {"securityContext": {"$patch": "delete"}},
    }
    assert apply(doc, patch) == {"metadata": {"labels": {"b": "2"}}, "spec": {"securityContext": {}}}


def test_replace_of_a_whole_list():
    doc = spec(containers=containers("a", "b"))
    assert apply(doc, spec(containers=[{"$patch": "replace"}, {"name": "c"}])) == spec(
        containers=containers("c")
    )


def test_lists_without_a_merge_strategy_are_replaced():
    doc = spec(containers=[{"name": "a", "args": ["1", "2"], "command": ["sh"]}], tolerations=[{"key": "a"}])
    patch = spec(containers=[{"name": "a", "args": ["3"]}], tolerations=[{"key": "b"}])
    assert apply(doc, patch) == spec(
        containers=[{"name": "a", "args": ["3"], "command": ["sh"]}], tolerations=[{"key": "b"}]
    )


def test_ports_merge_by_number_and_conditions_by_type():
    doc = {
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"}]
        },
    }
    patch = {
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 443}]}]},
        "status": {
            "$setElementOrder/conditions": [{"type": "Initialized"}, {"type": "Ready"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    result = apply(doc, patch)
    assert [p["containerPort"] for p in result["spec"]["containers"][0]["ports"]] == [443, 80]
    assert result["status"]["conditions"] == [
        {"type": "Initialized", "status": "True"},
        {"type": "Ready", "status": "True"},
    ]


def test_service_ports_merge_by_port():
    doc = {"spec": {"ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}}
    result = apply(doc, {"spec": {"ports": [{"port": 80, "targetPort": 9090}]}}, "Service")
    assert result["spec"]["ports"] == [{"port": 80, "targetPort": 9090, "protocol": "TCP"}]


def test_what_is_new_is_taken_without_nulls_and_directives():
    patch = spec(
        containers=[
            {"name": "a", "image": None, "$setElementOrder/env": [], "env": [{"name": "E", "value": None}]}
        ]
    )
    assert apply({}, patch) == spec(containers=[{"name": "a", "env": [{"name": "E"}]}])


@pytest.mark.parametrize(
    "patch",
    [
        [],
        "x",
        spec(containers=[{"image": "x"}]),
        spec(containers=["x"]),
        {"$patch": "frob"},
        spec(containers=[{"name": "a", "$patch": "merge"}]),
        {"spec": {"$retainKeys": 1}},
        {"spec": {"$setElementOrder/containers": 1}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": 1}},
        {"spec": {"$setElementOrder/containers": [{"name": ["x"]}], "containers": [{"name": "a"}]}},
    ],
)
def test_malformed_patches_are_refused(patch):
    with pytest.raises(PatchError) as raised:
        apply({"metadata": {"finalizers": ["a"]}, "spec": {"containers": containers("a")}}, patch)
    assert raised.value.code == 400


_NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(_NAMES, _NAMES)
def test_merging_named_elements_keeps_each_once_and_the_patchs_order(old, new):
    if not old:
        return
    result = apply(spec(containers=containers(*old)), spec(containers=containers(*new, image="y")))
    names = [c["name"] for c in result["spec"]["containers"]]
    assert sorted(names) == sorted({*old, *new})
    assert [n for n in names if n in new] == new
    again = apply(result, spec(containers=containers(*new, image="y")))
    assert again == result
