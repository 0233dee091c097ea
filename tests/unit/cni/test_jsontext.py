from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.cni import jsontext

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_written_text_is_json_and_reads_back(value: object):
    text = jsontext.dumps(value)
    assert json.loads(text) == value
    assert jsontext.loads(text) == value
    assert jsontext.loads(f" \n{text}\t ".encode()) == value


def test_it_prints_as_the_reference_plugins_do():
    assert jsontext.dumps({"a": [1], "b": {}, "c": []}) == (
        '{\n    "a": [\n        1\n    ],\n    "b": {},\n    "c": []\n}'
    )


@pytest.mark.parametrize("text", ["", "  ", "{", '{"a" 1}', "[1,]", "{} x", "nul", b"\xff", '{"a": "\n"}'])
def test_what_is_not_json_is_a_value_error(text: str | bytes):
    with pytest.raises(ValueError, match=r"Expecting|Extra|decode|control|Illegal"):
        jsontext.loads(text)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="not JSON"):
        jsontext.dumps({"a": object()})
