import pytest

from podling.api.core_v1 import Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from podling.api.meta_v1 import LabelSelector, LabelSelectorRequirement, ObjectMeta
from podling.api.selectors import (
    SelectorError,
    match_label_selector,
    match_node_selector,
    parse_field_selector,
    parse_label_selector,
)

LABELS = {"app": "web", "tier": "front", "weight": "5", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "", "app=web", "app==web", "app", "!missing", "app!=api", "missing!=x", "app in (web,api)",
        "weight>4",
        "app notin (api)", "missing notin (x)", "weight<6", "app=web,tier=front", " app = web , tier ",
        "empty=", "empty in ()", "app in (web)", "app,!missing,tier in (front, back)",
    ],
)  # fmt: skip
def test_label_selector_matches(text):
    assert parse_label_selector(text).matches(LABELS)


@pytest.mark.parametrize(
    "text", ["app=api", "missing", "!app", "app!=web", "app in (x)", "app notin (web)", "weight>5", "app="]
)  # fmt: skip
def test_label_selector_does_not_match(text):
    assert not parse_label_selector(text).matches(LABELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app=web,", "found '', expected: identifier after ','"),
        ("=web", "found '=', expected: !, identifier, or 'end of string'"),
        ("app in web", "found 'web' expected: '('"),
        ("app like x", "found 'like', expected: in, notin, =, ==, !=, gt, lt"),
        ("app=web tier", "found 'tier', expected: ',' or 'end of string'"),
        ("app in (a", "found '', expected: ',' or ')'"),
        ("app=-x", 'values[0][app]: Invalid value: "-x": a valid label must be'),
        ("-x=a", 'key: Invalid value: "-x": name part must consist of'),
        ("a>b", "for 'Gt', 'Lt' operators, the value must be an integer"),
    ],
)
def test_label_selector_faults(text, message):
    with pytest.raises(SelectorError) as raised:
        parse_label_selector(text)
    assert message in str(raised.value)
    assert str(raised.value).startswith("unable to parse requirement: ")


def test_structured_label_selector():
    assert not match_label_selector(None, LABELS)
    assert match_label_selector(LabelSelector(), LABELS)
    assert match_label_selector(LabelSelector(match_labels={"app": "web"}), LABELS)
    expression = LabelSelectorRequirement(key="tier", operator="NotIn", values=["back"])
    assert match_label_selector(LabelSelector(match_expressions=[expression]), LABELS)
    expression.operator = "DoesNotExist"
    assert not match_label_selector(LabelSelector(match_expressions=[expression]), LABELS)


def test_node_selector():
    node = Node(metadata=ObjectMeta(name="n1", labels={"disk": "ssd", "cores": "8"}))

    def matches(*terms):
        return match_node_selector(NodeSelector(node_selector_terms=list(terms)), node)

    ssd = NodeSelectorRequirement(key="disk", operator="In", values=["ssd"])
    many = NodeSelectorRequirement(key="cores", operator="Gt", values=["4"])
    named = NodeSelectorRequirement(key="metadata.name", operator="In", values=["n2"])
    assert matches(NodeSelectorTerm(match_expressions=[ssd, many]))
    assert not matches(NodeSelectorTerm(match_expressions=[ssd], match_fields=[named]))
    assert matches(NodeSelectorTerm(match_fields=[named]), NodeSelectorTerm(match_expressions=[many]))
    assert not matches(NodeSelectorTerm())
    assert not matches()


POD = {
    "metadata": {"name": "a", "namespace": "default"},
    "spec": {"nodeName": "n1", "restartPolicy": "Always"},
    "status": {"phase": "Running"},
}


def test_field_selectors():
    assert parse_field_selector("spec.nodeName=n1,status.phase!=Failed", "Pod").matches(POD)
    assert parse_field_selector("spec.hostNetwork=false", "Pod").matches(POD)
    assert not parse_field_selector("spec.nodeName=", "Pod").matches(POD)
    assert parse_field_selector("spec.nodeName=", "Pod").matches({"spec": {}})
    assert parse_field_selector("metadata.name=a", "Pod").exact("metadata.name") == "a"
    assert parse_field_selector("metadata.name!=a", "Pod").exact("metadata.name") is None
    assert parse_field_selector(r"reason=a\,b\=c", "Event").matches({"reason": "a,b=c"})
    assert parse_field_selector("involvedObject.uid=u", "Event").matches({"involvedObject": {"uid": "u"}})
    assert parse_field_selector("", "Pod").empty


def test_field_selector_faults():
    with pytest.raises(SelectorError, match=r"field label not supported: spec\.image"):
        parse_field_selector("spec.image=x", "Pod")
    with pytest.raises(SelectorError, match='"spec" is not a known field selector: only'):
        parse_field_selector("spec=x", "ConfigMap")
    with pytest.raises(SelectorError, match="can't understand 'x'"):
        parse_field_selector("x", "Pod")
