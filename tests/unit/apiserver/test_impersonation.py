"""Kubernetes documentation, "User impersonation"."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from podling.apiserver import authn
from podling.apiserver.errors import APIError
from podling.apiserver.request import ALL_AUTHENTICATED, ANONYMOUS

ADMIN = authn.user("kubernetes-admin", ("system:masters",))
JOE = authn.user("joe", ("developers",))


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_without_headers_everyone_is_who_they_are() -> None:
    assert authn.impersonated(JOE, headers(("Accept", "*/*"))) is JOE


def test_an_administrator_is_judged_as_the_user_asked_for() -> None:
    asked = headers(("impersonate-user", "jane"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"))
    assert authn.impersonated(ADMIN, asked) == authn.User("jane", ("a", "b", ALL_AUTHENTICATED))


def test_a_service_account_brings_its_groups() -> None:
    name = "system:serviceaccount:web:default"
    assert authn.impersonated(ADMIN, headers(("Impersonate-User", name))).groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:web",
        ALL_AUTHENTICATED,
    )


def test_anonymous_is_not_authenticated() -> None:
    assert authn.impersonated(ADMIN, headers(("Impersonate-User", "system:anonymous"))) == ANONYMOUS


def test_nobody_else_may() -> None:
    with pytest.raises(APIError, match='User "joe" cannot impersonate resource "users"') as caught:
        authn.impersonated(JOE, headers(("Impersonate-User", "kubernetes-admin")))
    assert caught.value.code == 403


def test_groups_of_no_user_are_refused() -> None:
    with pytest.raises(APIError, match="without impersonating a user"):
        authn.impersonated(ADMIN, headers(("Impersonate-Group", "system:masters")))
