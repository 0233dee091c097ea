"""Certificate signing requests and bootstrap tokens, as the API server keeps them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from podling.apiserver import authn, bootstraptokens
from podling.apiserver.rbac.bootstrap import ensure_policy
from podling.machine.node_certificates import make_request

from .harness import API

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
BOOTSTRAPPER = authn.user("system:bootstrap:abcdef", ("system:bootstrappers",))


def csr(name: str = "one", **spec: Any) -> dict[str, Any]:
    request = make_request("n1", ec.generate_private_key(ec.SECP256R1()))
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(request).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
            **spec,
        },
    }


def condition(kind: str) -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": "Test", "message": ""}


async def test_who_asks_is_what_the_server_knows(api: API) -> None:
    body = csr(username="system:admin", groups=["system:masters"], uid="x")
    made = await api.created(PATH, body)
    assert made["spec"]["username"] == "admin"
    assert made["spec"]["groups"] == ["system:masters", "system:authenticated"]
    assert "uid" not in made["spec"]
    assert "status" not in made or not made["status"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"request": "bm90IFBFTQ=="}, "PEM block type must be CERTIFICATE REQUEST"),
        ({"usages": []}, "spec.usages: Required value: usages must be provided"),
        ({"usages": ["client auth", "client auth"]}, 'spec.usages[1]: Duplicate value: "client auth"'),
        ({"signerName": ""}, "spec.signerName: Required value"),
        ({"signerName": "nobody"}, "must be a fully qualified domain and path"),
        ({"expirationSeconds": 60}, "may not specify a duration less than 600 seconds"),
    ],
)
async def test_what_cannot_be_signed_is_refused(api: API, spec: dict[str, Any], words: str) -> None:
    status, answer = await api.post(PATH, csr(**spec))
    assert status == 422
    assert words in answer["message"]


async def test_approval_changes_conditions_and_nothing_else(api: API) -> None:
    made = await api.created(PATH, csr())
    changed = {**made, "spec": {**made["spec"], "username": "other"}}
    changed["metadata"] = {**made["metadata"], "labels": {"a": "b"}}
    changed["status"] = {"conditions": [condition("Approved")], "certificate": "Zm9v"}
    status, answer = await api.put(f"{PATH}/one/approval", changed)
    assert status == 200
    assert [c["type"] for c in answer["status"]["conditions"]] == ["Approved"]
    assert "certificate" not in answer["status"]
    assert answer["spec"] == made["spec"]
    assert "labels" not in answer["metadata"]
    status, answer = await api.patch(
        f"{PATH}/one/approval", {"status": {"conditions": [condition("Approved"), condition("Denied")]}}
    )
    assert (status, "mutually exclusive" in answer["message"]) == (422, True)
    status, answer = await api.patch(f"{PATH}/one/approval", {"status": {"conditions": []}})
    assert (status, 'may not remove a condition of type "Approved"' in answer["message"]) == (422, True)


async def test_the_status_cannot_approve(api: API) -> None:
    await api.created(PATH, csr())
    patch = {"status": {"certificate": "Zm9v", "conditions": [condition("Approved"), condition("Failed")]}}
    status, answer = await api.patch(f"{PATH}/one/status", patch)
    assert status == 200
    assert [c["type"] for c in answer["status"]["conditions"]] == ["Failed"]
    status, answer = await api.patch(f"{PATH}/one/status", {"status": {"certificate": "YmFy"}})
    assert (status, "may not modify certificate content" in answer["message"]) == (422, True)


async def test_the_question_does_not_change(api: API) -> None:
    made = await api.created(PATH, csr())
    status, answer = await api.patch(f"{PATH}/one", {"spec": {"signerName": "example.com/other"}})
    assert status == 200
    assert answer["spec"] == made["spec"]


# Bootstrap tokens


def secret(**data: str) -> dict[str, Any]:
    said = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        **data,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "stringData": said,
    }


@pytest.mark.parametrize(
    ("data", "token", "groups"),
    [
        ({}, "abcdef.0123456789abcdef", ["system:bootstrappers"]),
        ({"expiration": "2999-01-01T00:00:00Z"}, "abcdef.0123456789abcdef", ["system:bootstrappers"]),
        (
            {"auth-extra-groups": "system:bootstrappers:a,system:bootstrappers:b"},
            "abcdef.0123456789abcdef",
            ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b"],
        ),
        ({}, "abcdef.0123456789abcdee", None),
        ({}, "ghijkl.0123456789abcdef", None),
        ({}, "abcdef", None),
        ({"expiration": "2020-01-01T00:00:00Z"}, "abcdef.0123456789abcdef", None),
        ({"expiration": "soon"}, "abcdef.0123456789abcdef", None),
        ({"usage-bootstrap-authentication": "false"}, "abcdef.0123456789abcdef", None),
        ({"auth-extra-groups": "system:masters"}, "abcdef.0123456789abcdef", None),
    ],
)
async def test_bootstrap_tokens(api: API, data: dict[str, str], token: str, groups: list[str] | None) -> None:
    await api.created("/api/v1/namespaces/kube-system/secrets", secret(**data))
    user = await bootstraptokens.authenticate(api.cluster, token)
    if groups is None:
        assert user is None
    else:
        assert user is not None
        assert user.name == "system:bootstrap:abcdef"
        assert list(user.groups) == [*groups, "system:authenticated"]


async def test_a_bootstrapper_may_ask_and_nothing_else(api: API) -> None:
    await ensure_policy(api.cluster)
    made = await api.created(PATH, csr(), user=BOOTSTRAPPER)
    assert made["spec"]["username"] == "system:bootstrap:abcdef"
    status, _ = await api.get("/api/v1/nodes", user=BOOTSTRAPPER)
    assert status == 403
    status, _ = await api.patch(
        f"{PATH}/one/approval", {"status": {"conditions": [condition("Approved")]}}, user=BOOTSTRAPPER
    )
    assert status == 403
