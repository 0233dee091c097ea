"""When a pod's token is asked for anew: upstream's rule, with a clock that is set by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from podling.api import authentication_v1, core_v1, meta_v1
from podling.api.times import format_time
from podling.client.errors import TransportError
from podling.kubelet.tokens import PodTokens, TokenKey

KEY = TokenKey("", 3600)
POD = core_v1.Pod(
    metadata=meta_v1.ObjectMeta(name="web", namespace="default", uid="u1"),
    spec=core_v1.PodSpec(service_account_name="robot"),
)


class Issuer:
    """Stands where the client does: gives out numbered tokens of the lifetime asked for, or is away."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.away = False
        self.asked: list[tuple[str, str, authentication_v1.TokenRequestSpec]] = []

    async def create_token(
        self, namespace: str, account: str, spec: authentication_v1.TokenRequestSpec
    ) -> authentication_v1.TokenRequestStatus:
        if self.away:
            raise TransportError("nobody answers")
        self.asked.append((namespace, account, spec))
        ends = datetime.fromtimestamp(self.now + (spec.expiration_seconds or 0), UTC)
        return authentication_v1.TokenRequestStatus(
            token=f"token-{len(self.asked)}", expiration_timestamp=format_time(ends)
        )


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def tokens(issuer: Issuer) -> PodTokens:
    return PodTokens(issuer, lambda: issuer.now)  # type: ignore[arg-type]


async def test_a_token_is_bound_to_its_pod_and_kept(issuer: Issuer, tokens: PodTokens):
    assert await tokens.fetch(POD, [KEY]) == {KEY: "token-1"}
    issuer.now += 0.79 * 3600
    assert await tokens.fetch(POD, [KEY]) == {KEY: "token-1"}
    ((namespace, account, spec),) = issuer.asked
    assert (namespace, account) == ("default", "robot")
    assert spec.bound_object_ref is not None
    assert (spec.bound_object_ref.name, spec.bound_object_ref.uid) == ("web", "u1")


async def test_it_is_renewed_after_four_fifths_of_its_time(issuer: Issuer, tokens: PodTokens):
    await tokens.fetch(POD, [KEY])
    issuer.now += 0.81 * 3600
    assert await tokens.fetch(POD, [KEY]) == {KEY: "token-2"}


async def test_a_long_one_is_renewed_after_a_day(issuer: Issuer, tokens: PodTokens):
    key = TokenKey("vault", 30 * 86400)
    await tokens.fetch(POD, [key])
    issuer.now += 86401
    assert await tokens.fetch(POD, [key]) == {key: "token-2"}


async def test_the_old_one_serves_while_the_api_server_is_away_until_it_ends(
    issuer: Issuer, tokens: PodTokens
):
    await tokens.fetch(POD, [KEY])
    issuer.away = True
    issuer.now += 3599
    assert await tokens.fetch(POD, [KEY]) == {KEY: "token-1"}
    issuer.now += 1
    with pytest.raises(TransportError):
        await tokens.fetch(POD, [KEY])


async def test_a_pod_that_is_gone_is_forgotten(issuer: Issuer, tokens: PodTokens):
    await tokens.fetch(POD, [KEY])
    tokens.forget("u1")  # type: ignore[arg-type]
    assert await tokens.fetch(POD, [KEY]) == {KEY: "token-2"}
