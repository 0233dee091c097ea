"""Bootstrap tokens: how a machine that has no identity yet asks for one.

A token `ID.SECRET` is a Secret `bootstrap-token-ID` in kube-system (Kubernetes documentation,
"Authenticating with Bootstrap Tokens"). Who shows it is `system:bootstrap:ID` of `system:bootstrappers`.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from typing import Any

from podling.api.times import parse_time
from podling.apiserver.cluster import Cluster
from podling.apiserver.objects import from_entry
from podling.apiserver.request import ALL_AUTHENTICATED, User

TYPE = "bootstrap.kubernetes.io/token"
GROUP = "system:bootstrappers"

_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


def looks_like_one(token: str) -> bool:
    return _TOKEN.fullmatch(token) is not None


async def authenticate(cluster: Cluster, token: str) -> User | None:
    """None for a token that is not known, not right, not for this or too old."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    identifier, secret = match.groups()
    entry = await cluster.store.newest(f"secrets/kube-system/bootstrap-token-{identifier}")
    if entry is None:
        return None
    obj = from_entry(entry)
    data = _data(obj)
    expiration = data.get("expiration", "")
    if (
        obj.get("type") != TYPE
        or obj["metadata"].get("deletionTimestamp")
        or data.get("token-id") != identifier
        or not hmac.compare_digest(data.get("token-secret", "").encode(), secret.encode())
        or data.get("usage-bootstrap-authentication") != "true"
        or (expiration and not _lasts(expiration))
    ):
        return None
    extra = [group.strip() for group in data.get("auth-extra-groups", "").split(",") if group.strip()]
    if not all(map(_EXTRA_GROUP.fullmatch, extra)):
        return None
    return User(f"system:bootstrap:{identifier}", (GROUP, *extra, ALL_AUTHENTICATED))


def _data(obj: dict[str, Any]) -> dict[str, str]:
    return {
        key: base64.b64decode(value).decode("utf-8", "replace")
        for key, value in (obj.get("data") or {}).items()
    }


def _lasts(expiration: str) -> bool:
    try:
        return parse_time(expiration).timestamp() > time.time()
    except ValueError:
        return False
