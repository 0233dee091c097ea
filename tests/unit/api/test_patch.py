import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.api.patch import PatchError, json_patch, merge_patch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/~", max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("doc", "patch", "result"),
    [
        # RFC 7386, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(doc, patch, result):
    before = copy.deepcopy((doc, patch))
    assert merge_patch(doc, patch) == result
    assert (doc, patch) == before


@given(JSON, JSON)
def test_merge_patch_twice_is_merge_patch_once(doc, patch):
    once = merge_patch(doc, patch)
    assert merge_patch(once, patch) == once


def op(op_, path, **more):
    return {"op": op_, "path": path, **more}


@pytest.mark.parametrize(
    ("doc", "operations", "result"),
    [
        ({"a": 1}, [op("add", "/b", value=2)], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [op("add", "/a/1", value=2)], {"a": [1, 2, 3]}),
        ({"a": [1]}, [op("add", "/a/-", value=2)], {"a": [1, 2]}),
        ({"a": [1]}, [op("add", "/a/1", value=2)], {"a": [1, 2]}),
        ({"a": 1}, [op("add", "/a", value=None)], {"a": None}),
        ({"a": 1, "b": 2}, [op("remove", "/b")], {"a": 1}),
        ({"a": [1, 2]}, [op("remove", "/a/-1")], {"a": [1]}),
        ({"a": {"b": [{"c": 1}]}}, [op("replace", "/a/b/0/c", value=2)], {"a": {"b": [{"c": 2}]}}),
        ({"a": 1}, [op("move", "/b", **{"from": "/a"})], {"b": 1}),
        ({"a": {"x": 1}}, [op("copy", "/b", **{"from": "/a"})], {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a/b": 1, "m~n": 2}, [op("remove", "/a~1b"), op("remove", "/m~0n")], {}),
        ({"a": 1}, [op("test", "/a", value=1), op("test", "/missing", value=None)], {"a": 1}),
        ({"a": 1}, [op("replace", "", value={"b": 2})], {"b": 2}),
        ({"": {"": 1}}, [op("replace", "/", value=2)], {"": 2}),
    ],
)
def test_json_patch(doc, operations, result):
    before = copy.deepcopy(doc)
    assert json_patch(doc, operations) == result
    assert doc == before


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({}, 400),
        (["x"], 400),
        ([{"op": "add"}], 400),
        ([op("add", "/a")], 422),
        ([op("frob", "/a")], 422),
        ([op("remove", "/missing")], 422),
        ([op("replace", "/missing", value=1)], 422),
        ([op("add", "/missing/x", value=1)], 422),
        ([op("add", "/list/9", value=1)], 422),
        ([op("add", "/list/x", value=1)], 422),
        ([op("remove", "/list/5")], 422),
        ([op("remove", "/scalar/x")], 422),
        ([op("test", "/scalar", value=True)], 422),
        ([op("move", "/b", **{"from": "/missing"})], 422),
        ([op("move", "/map/x", **{"from": "/map"})], 422),
        ([op("copy", "/b")], 422),
        ([op("add", "no-slash", value=1)], 422),
        ([op("test", "/scalar", value=1)] * 10_001, 413),
    ],
)
def test_json_patch_that_does_not_apply(operations, code):
    doc = {"list": [1], "scalar": 1, "map": {}}
    with pytest.raises(PatchError) as raised:
        json_patch(doc, operations)
    assert raised.value.code == code


@given(JSON, st.lists(st.text("abc~01/-", max_size=4).map(lambda p: "/" + p), max_size=3), JSON)
def test_json_patch_applies_or_says_why_not(doc, paths, value):
    before = copy.deepcopy(doc)
    for path in paths:
        for name in ("add", "remove", "replace", "test"):
            try:
                json_patch(doc, [op(name, path, value=value)])
            except PatchError as err:
                assert err.code == 422  # noqa: PT017
    assert doc == before
