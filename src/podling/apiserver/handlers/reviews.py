"""Questions about rights and tokens, asked by creating what is never stored.

`kubectl auth can-i` and `whoami`, and what kubelets and aggregated servers ask about those who call them
(authorization.k8s.io/v1, authentication.k8s.io/v1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podling.api.rbac_v1 import PolicyRule
from podling.api.validation.faults import FieldError, forbidden, invalid
from podling.apiserver import authz, bodies, errors, render, serviceaccounts
from podling.apiserver.bodies import read_options
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object, encode
from podling.apiserver.request import Answer, Request, User
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.tokens import ISSUER, InvalidTokenError

_EITHER = "exactly one of nonResourceAttributes or resourceAttributes must be specified"


async def handle_self_access(
    cluster: Cluster, request: Request, info: RequestInfo, resource: Resource
) -> Answer:
    review = read_options(request, resource.kind, resource.group)
    spec = review.get("spec") or {}
    return await _access(cluster, request, resource, spec, request.user)


async def handle_access(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    """SubjectAccessReview, and LocalSubjectAccessReview of one namespace."""
    review = bodies.read_object(request, bodies.Kind(resource.kind, resource.group, resource.version))
    spec: dict[str, Any] = review.get("spec") or {}
    faults = _check_subject(spec)
    if resource.namespaced:
        asked = (spec.get("resourceAttributes") or {}).get("namespace") or ""
        if asked != info.namespace:
            detail = f"must match metadata.namespace: {info.namespace}"
            faults.append(invalid("spec.resourceAttributes.namespace", asked, detail))
        if spec.get("nonResourceAttributes"):
            faults.append(forbidden("spec.nonResourceAttributes", "disallowed on this kind of request"))
    if faults:
        raise errors.invalid(resource.kind, "", faults, group=resource.group)
    user = User(
        spec.get("user") or "",
        tuple(spec.get("groups") or ()),
        uid=spec.get("uid") or "",
        extra={key: tuple(values) for key, values in (spec.get("extra") or {}).items()},
    )
    return await _access(cluster, request, resource, spec, user)


def _check_subject(spec: Mapping[str, Any]) -> list[FieldError]:
    if spec.get("user") or spec.get("groups"):
        return []
    return [invalid("spec.user", "", "at least one of user or group must be specified")]


async def _access(
    cluster: Cluster, request: Request, resource: Resource, spec: dict[str, Any], user: User
) -> Answer:
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if isinstance(asked, dict) == isinstance(path, dict):
        fault = invalid("spec.resourceAttributes", asked, _EITHER)
        raise errors.invalid(resource.kind, "", [fault], group=resource.group)
    if isinstance(asked, dict):
        wanted = RequestInfo(
            path="",
            verb=asked.get("verb") or "",
            group=asked.get("group") or "",
            version=asked.get("version") or "",
            resource=asked.get("resource") or "",
            namespace=asked.get("namespace") or "",
            name=asked.get("name") or "",
            subresource=asked.get("subresource") or "",
        )
    else:
        assert isinstance(path, dict)
        wanted = RequestInfo(path=path.get("path") or "", verb=path.get("verb") or "")
    allowed = await authz.may(cluster, user, wanted)
    return _answer(request, resource, {"spec": spec, "status": {"allowed": allowed}})


async def handle_self_rules(
    cluster: Cluster, request: Request, info: RequestInfo, resource: Resource
) -> Answer:
    """`kubectl auth can-i --list`."""
    spec = read_options(request, resource.kind, resource.group).get("spec") or {}
    namespace = spec.get("namespace") or ""
    if not namespace:
        raise errors.bad_request("no namespace on request")
    rules = await cluster.bindings.rules_of(request.user, namespace)
    status = {
        "resourceRules": list(_rules(rules, ("api_groups", "resources", "resource_names"))),
        "nonResourceRules": list(_rules(rules, ("non_resource_ur_ls",))),
        "incomplete": False,
    }
    return _answer(request, resource, {"spec": spec, "status": status})


_NAMES = {
    "api_groups": "apiGroups",
    "resources": "resources",
    "resource_names": "resourceNames",
    "non_resource_ur_ls": "nonResourceURLs",
}


def _rules(rules: Iterable[PolicyRule], fields: tuple[str, ...]) -> Iterable[Object]:
    for rule in rules:
        found = {_NAMES[field]: getattr(rule, field) for field in fields if getattr(rule, field)}
        if found:
            yield {"verbs": rule.verbs, **found}


async def handle_self(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    return _answer(request, resource, {"status": {"userInfo": user_info(request.user)}})


async def handle_token(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    """TokenReview: whose token is this?"""
    review = bodies.read_object(request, bodies.Kind(resource.kind, resource.group, resource.version))
    spec: dict[str, Any] = review.get("spec") or {}
    if not spec.get("token"):
        raise errors.bad_request("token is required for TokenReview in authentication")
    audiences = spec.get("audiences") or [ISSUER]
    status: Object = {}
    try:
        user = await serviceaccounts.authenticate(cluster, spec["token"], audiences)
    except InvalidTokenError as err:
        status = {"error": f"[invalid bearer token, {err}]", "user": {}}
    else:
        status = {"authenticated": True, "user": user_info(user), "audiences": audiences}
    return _answer(request, resource, {"spec": spec, "status": status})


def user_info(user: User) -> Object:
    """authentication.k8s.io/v1 UserInfo."""
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra.items()}
    return info


def _answer(request: Request, resource: Resource, fields: Object) -> Answer:
    review = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": {}, **fields}
    return render.one(resource, encode(review), accepted(request.accept), request, status=201)
