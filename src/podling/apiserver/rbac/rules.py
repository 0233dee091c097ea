"""What a rule allows, and whether some rules give all that another gives. Pure.

Kubernetes documentation, "Using RBAC Authorization", "Role and ClusterRole" and "Privilege escalation
prevention and bootstrapping"; matching is upstream's (`pkg/apis/rbac/v1/evaluation_helpers.go`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from podling.api.rbac_v1 import PolicyRule
from podling.apiserver.requestinfo import RequestInfo

ALL = "*"


def allows(rule: PolicyRule, info: RequestInfo) -> bool:
    if info.verb not in rule.verbs and ALL not in rule.verbs:
        return False
    if not info.resource:
        return any(_path_matches(pattern, info.path) for pattern in rule.non_resource_ur_ls)
    if info.group not in rule.api_groups and ALL not in rule.api_groups:
        return False
    if not _resource_matches(rule, info.resource, info.subresource):
        return False
    return not rule.resource_names or info.name in rule.resource_names


def _resource_matches(rule: PolicyRule, resource: str, subresource: str) -> bool:
    whole = f"{resource}/{subresource}" if subresource else resource
    wanted = {ALL, whole, f"*/{subresource}"} if subresource else {ALL, whole}
    return not wanted.isdisjoint(rule.resources)


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith(ALL):
        return path.startswith(pattern[:-1])
    return pattern == path


def uncovered(held: Iterable[PolicyRule], wanted: Iterable[PolicyRule]) -> list[PolicyRule]:
    """What of `wanted` `held` does not give, as rules of one verb and one resource each."""
    rules = list(held)
    return [part for rule in wanted for part in _parts(rule) if not any(_covers(r, part) for r in rules)]


def _parts(rule: PolicyRule) -> Iterator[PolicyRule]:
    for group, resource, verb in product(rule.api_groups, rule.resources, rule.verbs):
        names: list[list[str]] = [[name] for name in rule.resource_names] or [[]]
        for one in names:
            yield PolicyRule(api_groups=[group], resources=[resource], verbs=[verb], resource_names=one)
    for url, verb in product(rule.non_resource_ur_ls, rule.verbs):
        yield PolicyRule(non_resource_ur_ls=[url], verbs=[verb])


def _covers(rule: PolicyRule, part: PolicyRule) -> bool:
    if part.verbs[0] not in rule.verbs and ALL not in rule.verbs:
        return False
    if part.non_resource_ur_ls:
        return any(_path_matches(pattern, part.non_resource_ur_ls[0]) for pattern in rule.non_resource_ur_ls)
    if part.api_groups[0] not in rule.api_groups and ALL not in rule.api_groups:
        return False
    resource, _, subresource = part.resources[0].partition("/")
    if part.resources[0] not in rule.resources and not _resource_matches(rule, resource, subresource):
        return False
    return not rule.resource_names or not set(rule.resource_names).isdisjoint(part.resource_names)


def describe(rule: PolicyRule) -> str:
    """As upstream prints a rule somebody must not hand on."""
    fields = (
        ("APIGroups", rule.api_groups),
        ("Resources", rule.resources),
        ("ResourceNames", rule.resource_names),
        ("NonResourceURLs", rule.non_resource_ur_ls),
        ("Verbs", rule.verbs),
    )
    texts = (
        f"{name}:[{', '.join(f'{v!r}'.replace(chr(39), chr(34)) for v in values)}]"
        for name, values in fields
        if values
    )
    return "{" + ", ".join(texts) + "}"
