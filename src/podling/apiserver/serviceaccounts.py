"""Service accounts as users: who a token stands for, and which tokens are given out.

A token is believed as long as its account, and the pod, secret or node it is bound to, exist with the UIDs
they had (Kubernetes documentation, "Managing Service Accounts", "Bound service account tokens").
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from podling.api.times import parse_time
from podling.apiserver import errors
from podling.apiserver.authn import SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import Object, from_entry
from podling.apiserver.request import ALL_AUTHENTICATED, User
from podling.apiserver.tokens import ISSUER, Claims, InvalidTokenError

POD_LEEWAY_S = 60
"""How long a token outlives the end of its pod's grace period, as upstream."""
PRIVATE = "kubernetes.io"
"""The claim that holds what is Kubernetes' own."""
_EXTRA = "authentication.kubernetes.io"
_KINDS = {"pod": "pods", "secret": "secrets", "node": "nodes"}


async def authenticate(cluster: Cluster, token: str, audiences: Sequence[str] = (ISSUER,)) -> User:
    """The user of a token meant for one of `audiences`. Raises InvalidTokenError."""
    if cluster.tokens is None:
        raise InvalidTokenError("this server has no key for service account tokens")
    claims = cluster.tokens.verify(token, now=time.time())
    meant_for = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if not set(audiences) & set(meant_for):
        raise InvalidTokenError(
            f"token audiences {meant_for} is invalid for the target audiences {audiences}"
        )
    private = claims.get(PRIVATE)
    if not isinstance(private, dict):
        raise InvalidTokenError("the token is of no service account")
    namespace, account = private["namespace"], private["serviceaccount"]
    if await _living(cluster, "serviceaccounts", namespace, account) is None:
        raise InvalidTokenError(f"service account {namespace}/{account['name']} has been deleted")
    for claim, plural in _KINDS.items():
        bound = private.get(claim)
        # The node of a pod's token is told, not bound: a pod does not outlive its node by much.
        if bound is None or (claim == "node" and "pod" in private):
            continue
        found = await _living(cluster, plural, "" if claim == "node" else namespace, bound)
        if found is None or _ended(found):
            raise InvalidTokenError(f"the {claim} {bound['name']} that the token is bound to is gone")
    return User(
        f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{account['name']}",
        (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}", ALL_AUTHENTICATED),
        uid=account["uid"],
        extra=_extra(claims, private),
    )


async def _living(cluster: Cluster, plural: str, namespace: str, ref: dict[str, str]) -> Object | None:
    key = f"{plural}/{namespace}/{ref['name']}" if namespace else f"{plural}/{ref['name']}"
    entry = await cluster.store.newest(key)
    if entry is None:
        return None
    obj = from_entry(entry)
    return obj if obj["metadata"]["uid"] == ref["uid"] else None


def _ended(obj: Object) -> bool:
    deleted = obj["metadata"].get("deletionTimestamp")
    return bool(deleted) and time.time() > parse_time(deleted).timestamp() + POD_LEEWAY_S


def _extra(claims: Claims, private: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    extra: dict[str, tuple[str, ...]] = {}
    if claims.get("jti"):
        extra[f"{_EXTRA}/credential-id"] = (f"JTI={claims['jti']}",)
    for claim in ("pod", "node"):
        if ref := private.get(claim):
            extra[f"{_EXTRA}/{claim}-name"] = (ref["name"],)
            extra[f"{_EXTRA}/{claim}-uid"] = (ref["uid"],)
    return extra


async def claims_for(
    cluster: Cluster, account: Object, bound: Object | None, *, audiences: Sequence[str], lifetime_s: int
) -> Claims:
    """What a token for `account` says, bound to `bound` (a pod, secret or node) if given."""
    now = int(time.time())
    metadata = account["metadata"]
    private: dict[str, Any] = {
        "namespace": metadata["namespace"],
        "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
    }
    if bound is not None:
        private[bound["kind"].lower()] = _reference(bound)
        node = (bound.get("spec") or {}).get("nodeName") if bound["kind"] == "Pod" else None
        entry = await cluster.store.newest(f"nodes/{node}") if node else None
        if entry is not None:
            private["node"] = _reference(from_entry(entry))
    return {
        "aud": list(audiences),
        "exp": now + lifetime_s,
        "iat": now,
        "nbf": now,
        "jti": str(uuid.uuid4()),
        "sub": f"{SERVICE_ACCOUNT_PREFIX}{metadata['namespace']}:{metadata['name']}",
        PRIVATE: private,
    }


def _reference(obj: Object) -> dict[str, str]:
    return {"name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}


def discovery(cluster: Cluster) -> dict[str, Any]:
    """The OpenID provider configuration. Raises APIError 404 without a key."""
    if cluster.tokens is None:
        raise errors.unknown_path()
    return {
        "issuer": ISSUER,
        "jwks_uri": f"https://{cluster.config.advertise_address}:{cluster.config.port}/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [k["alg"] for k in cluster.tokens.public_keys()["keys"]],
    }
