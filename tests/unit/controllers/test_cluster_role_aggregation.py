from __future__ import annotations

from podling.api.meta_v1 import LabelSelector, ObjectMeta
from podling.api.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from podling.controllers.cluster_role_aggregation import aggregate

PODS = PolicyRule(api_groups=[""], resources=["pods"], verbs=["get"])
JOBS = PolicyRule(api_groups=["batch"], resources=["jobs"], verbs=["get"])


def role(name: str, *rules: PolicyRule, to: str = "", collects: str = "") -> ClusterRole:
    labels = {f"aggregate-to-{to}": "true"} if to else {}
    selector = LabelSelector(match_labels={f"aggregate-to-{collects}": "true"})
    return ClusterRole(
        metadata=ObjectMeta(name=name, labels=labels),
        rules=list(rules),
        aggregation_rule=AggregationRule(cluster_role_selectors=[selector]) if collects else None,
    )


def test_the_rules_of_all_that_are_selected_each_once() -> None:
    view = role("view", PODS, collects="view")
    roles = [view, role("b", JOBS, PODS, to="view"), role("a", PODS, to="view"), role("c", JOBS, to="edit")]
    assert aggregate(view, roles) == [PODS, JOBS]


def test_a_role_does_not_feed_itself() -> None:
    own = role("view", PODS, to="view", collects="view")
    assert aggregate(own, [own]) == []
