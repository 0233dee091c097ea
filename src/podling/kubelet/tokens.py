"""Service account tokens of the pods on this node: asked for, kept, and renewed before they end.

Each is bound to its pod, so the API server stops believing it when the pod is gone. Renewal is upstream's
(`pkg/kubelet/token`): after four fifths of the time asked for, or a day. While the API server does not
answer, a token that has not ended yet is still given out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from podling.api import authentication_v1, core_v1
from podling.api.times import parse_time
from podling.client.client import Client
from podling.client.errors import ClientError
from podling.kubelet import names

MAX_AGE_S = 86400.0
RENEW_AFTER = 0.8
"""Share of a token's time after which the next one is asked for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a projected volume asks for."""

    audience: str
    """Empty: the API server's own."""
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class _Kept:
    token: str
    asked_at: float
    expires_at: float

    def due(self, now: float) -> bool:
        return now > self.asked_at + min(RENEW_AFTER * (self.expires_at - self.asked_at), MAX_AGE_S)


class PodTokens:
    """Tokens by pod UID; forget a pod when it is gone. `now` is in seconds since the epoch."""

    def __init__(self, client: Client, now: Callable[[], float]) -> None:
        self._client = client
        self._now = now
        self._kept: dict[names.PodUID, dict[TokenKey, _Kept]] = {}

    async def fetch(self, pod: core_v1.Pod, keys: Iterable[TokenKey]) -> dict[TokenKey, str]:
        """A token for each of `keys`. Raises ClientError."""
        wanted = list(keys)
        tokens = await asyncio.gather(*(self._get(pod, key) for key in wanted))
        return dict(zip(wanted, tokens, strict=True))

    def forget(self, uid: names.PodUID) -> None:
        self._kept.pop(uid, None)

    async def _get(self, pod: core_v1.Pod, key: TokenKey) -> str:
        uid = names.pod_uid(pod)
        kept = self._kept.get(uid, {}).get(key)
        if kept is not None and not kept.due(self._now()):
            return kept.token
        try:
            fresh = await self._request(pod, key)
        except ClientError as err:
            if kept is None or self._now() >= kept.expires_at:
                raise
            log.warning("pod %s: its token could not be renewed yet: %s", names.pod_full(pod), err)
            return kept.token
        self._kept.setdefault(uid, {})[key] = fresh
        return fresh.token

    async def _request(self, pod: core_v1.Pod, key: TokenKey) -> _Kept:
        asked_at = self._now()
        spec = authentication_v1.TokenRequestSpec(
            audiences=[key.audience] if key.audience else [],
            expiration_seconds=key.lifetime_s,
            bound_object_ref=authentication_v1.BoundObjectReference(
                api_version="v1", kind="Pod", name=pod.metadata.name, uid=pod.metadata.uid
            ),
        )
        account = names.pod_spec(pod).service_account_name or "default"
        status = await self._client.create_token(names.pod_namespace(pod), account, spec)
        expires_at = parse_time(status.expiration_timestamp or "").timestamp()
        return _Kept(status.token or "", asked_at, expires_at)
