"""POST serviceaccounts/NAME/token: a token for the account, short-lived and bound to what uses it.

`kubectl create token`, and kubelets for the pods they run (authentication.k8s.io/v1, TokenRequest).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from podling.api.times import format_time
from podling.api.validation import FieldError
from podling.apiserver import authz, bodies, errors, options, registry, render, serviceaccounts
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object, encode, from_entry
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.tokens import ISSUER

TOKEN_REQUEST = Resource(kind="TokenRequest", plural="tokenrequests", group="authentication.k8s.io")
_KIND = bodies.Kind(TOKEN_REQUEST.kind, TOKEN_REQUEST.group, TOKEN_REQUEST.version)
DEFAULT_LIFETIME_S = 3600
MIN_LIFETIME_S = 600
MAX_LIFETIME_S = 1 << 32
PODS_LIFETIME_S = 3607
"""What the admission of pods asks for; recognised by the number, as upstream."""
EXTENDED_LIFETIME_S = 365 * 86400
"""What it gets: clients that never read their token again go on working (upstream's
--service-account-extend-token-expiration). The token still ends with its pod."""
_BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    if cluster.tokens is None:
        raise errors.unknown_path()
    accept = accepted(request.accept)
    options.dry_run(request, "CreateOptions")  # nothing is stored either way
    wanted = bodies.read_object(request, _KIND)
    spec: dict[str, Any] = wanted.get("spec") or {}
    lifetime_s = spec.get("expirationSeconds") or DEFAULT_LIFETIME_S
    _check_lifetime(info.name, lifetime_s)
    account = from_entry(await registry.read(cluster, registry.Target(resource, info.namespace, info.name)))
    bound = await _bound(cluster, request, info, spec.get("boundObjectRef"))
    audiences = spec.get("audiences") or [ISSUER]
    given_s = lifetime_s
    if bound is not None and lifetime_s == PODS_LIFETIME_S and audiences == [ISSUER]:
        given_s = EXTENDED_LIFETIME_S
    claims = await serviceaccounts.claims_for(
        cluster, account, bound, audiences=audiences, lifetime_s=given_s
    )
    token = await asyncio.to_thread(cluster.tokens.issue, claims)
    expires = datetime.fromtimestamp(claims["iat"] + lifetime_s, UTC)
    answer = {
        "kind": TOKEN_REQUEST.kind,
        "apiVersion": TOKEN_REQUEST.group_version,
        "metadata": {
            "name": info.name,
            "namespace": info.namespace,
            "creationTimestamp": format_time(datetime.now(UTC)),
        },
        "spec": {**spec, "audiences": audiences, "expirationSeconds": lifetime_s},
        "status": {"token": token, "expirationTimestamp": format_time(expires)},
    }
    return render.one(TOKEN_REQUEST, encode(answer), accept, request, status=201)


def _check_lifetime(name: str, lifetime_s: int) -> None:
    """Raises APIError 422."""
    why = ""
    if lifetime_s < MIN_LIFETIME_S:
        why = "may not specify a duration less than 10 minutes"
    elif lifetime_s > MAX_LIFETIME_S:
        why = "may not specify a duration larger than 2^32 seconds"
    if why:
        fault = FieldError(
            field="spec.expirationSeconds",
            reason="FieldValueInvalid",
            message=f"Invalid value: {lifetime_s}: {why}",
        )
        raise errors.invalid(TOKEN_REQUEST.kind, name, [fault], group=TOKEN_REQUEST.group)


async def _bound(
    cluster: Cluster, request: Request, info: RequestInfo, ref: dict[str, str] | None
) -> Object | None:
    """The object a token is to be bound to. Raises APIError 400, 403, 404, 409."""
    node = authz.node_of(request.user)
    if ref is None:
        if node is not None:
            raise errors.forbidden("serviceaccounts", info.name, "node requested token not bound to a pod")
        return None
    kind, name = ref.get("kind") or "", ref.get("name") or ""
    plural = _BINDABLE.get(kind)
    if plural is None or ref.get("apiVersion") not in (None, "", "v1"):
        raise errors.bad_request(f"cannot bind token to object of type {ref.get('apiVersion')}, Kind={kind}")
    key = f"{plural}/{name}" if kind == "Node" else f"{plural}/{info.namespace}/{name}"
    entry = await cluster.store.newest(key)
    if entry is None:
        raise errors.not_found(plural, name)
    obj = from_entry(entry)
    uid = ref.get("uid")
    if uid and uid != obj["metadata"]["uid"]:
        why = (
            f"the UID in the bound object reference ({uid}) does not match the UID in record. "
            "The object might have been deleted and then recreated"
        )
        raise errors.conflict(plural, name, why)
    if kind == "Pod" and (obj["spec"].get("serviceAccountName") or "default") != info.name:
        raise errors.bad_request(
            f'cannot bind token for serviceaccount "{info.name}" to pod running with different '
            "serviceaccount name."
        )
    if node is not None and (kind != "Pod" or obj["spec"].get("nodeName") != node):
        why = "node requested token bound to a pod scheduled on a different node"
        raise errors.forbidden("serviceaccounts", info.name, why)
    return obj
