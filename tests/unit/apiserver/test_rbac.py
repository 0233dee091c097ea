"""Roles, bindings and service account tokens, through the handlers."""

from __future__ import annotations

from pathlib import Path

import pytest

from podling.api.rbac_v1 import PolicyRule
from podling.apiserver import authn, serviceaccounts
from podling.apiserver.rbac.bootstrap import ensure_policy
from podling.apiserver.rbac.rules import allows, uncovered
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.tokens import InvalidTokenError, Tokens
from podling.machine.pki import make_signing_key
from unit.apiserver.harness import API, CONFIG_MAPS, PODS, config_map, pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES, BINDINGS = f"{RBAC}/namespaces/default/roles", f"{RBAC}/namespaces/default/rolebindings"
JOE = authn.user("joe", ("developers",))
READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


def role(name: str, *rules: dict, kind: str = "Role") -> dict:
    return {"apiVersion": f"{RBAC[6:]}", "kind": kind, "metadata": {"name": name}, "rules": list(rules)}


def binding(
    name: str, ref: str, *subjects: tuple[str, str], kind: str = "RoleBinding", to: str = "Role"
) -> dict:
    return {
        "apiVersion": f"{RBAC[6:]}",
        "kind": kind,
        "metadata": {"name": name},
        "roleRef": {"kind": to, "name": ref},
        "subjects": [{"kind": k, "name": n} for k, n in subjects],
    }


def asking(verb: str, resource: str = "", **more: str) -> RequestInfo:
    return RequestInfo(path=more.pop("path", ""), verb=verb, resource=resource, **more)


@pytest.mark.parametrize(
    ("rule", "info", "allowed"),
    [
        (PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"]), asking("get", "pods"), True),
        (PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"]), asking("list", "pods"), False),
        (
            PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"]),
            asking("get", "pods", subresource="log"),
            False,
        ),
        (
            PolicyRule(verbs=["*"], api_groups=["apps"], resources=["*/scale"]),
            asking("update", "deployments", group="apps", subresource="scale"),
            True,
        ),
        (
            PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"]),
            asking("get", "pods", subresource="log"),
            True,
        ),
        (
            PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"], resource_names=["a"]),
            asking("get", "pods", name="b"),
            False,
        ),
        (
            PolicyRule(verbs=["get"], non_resource_ur_ls=["/metrics/*"]),
            asking("get", path="/metrics/x"),
            True,
        ),
        (PolicyRule(verbs=["get"], non_resource_ur_ls=["/metrics"]), asking("get", path="/metrics/x"), False),
    ],
)
def test_what_a_rule_allows(rule: PolicyRule, info: RequestInfo, allowed: bool):
    assert allows(rule, info) is allowed


def test_what_rules_do_not_give():
    wanted = PolicyRule(verbs=["get", "delete"], api_groups=[""], resources=["pods", "pods/log"])
    held = [
        PolicyRule(verbs=["get"], api_groups=["*"], resources=["*"]),
        PolicyRule(verbs=["*"], api_groups=[""], resources=["pods"]),
    ]
    assert uncovered(held, [wanted]) == [
        PolicyRule(verbs=["delete"], api_groups=[""], resources=["pods/log"]),
    ]
    one = PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"], resource_names=["a"])
    assert uncovered([one], [PolicyRule(verbs=["get"], api_groups=[""], resources=["pods"])]) != []


async def test_a_binding_counts_from_its_creation_to_its_deletion(api: API):
    assert (await api.get(PODS, user=JOE))[0] == 403
    await api.created(ROLES, role("reader", READ_PODS))
    await api.created(BINDINGS, binding("joe", "reader", ("Group", "developers")))
    assert (await api.get(PODS, user=JOE))[0] == 200
    assert (await api.get("/api/v1/namespaces/kube-system/pods", user=JOE))[0] == 403
    assert (await api.get("/api/v1/pods", user=JOE))[0] == 403
    await api.delete(f"{BINDINGS}/joe")
    assert (await api.get(PODS, user=JOE))[0] == 403


async def test_a_cluster_role_may_be_bound_in_one_namespace(api: API):
    await ensure_policy(api.cluster)
    await api.created(BINDINGS, binding("joe", "edit", ("User", "joe"), to="ClusterRole"))
    assert (await api.post(CONFIG_MAPS, config_map(), user=JOE))[0] == 201
    assert (await api.get("/api/v1/nodes", user=JOE))[0] == 403


async def test_the_default_policy_is_put_back_unless_told_otherwise(api: API):
    await ensure_policy(api.cluster)
    path = f"{RBAC}/clusterroles/view"
    rules = (await api.get(path))[1]["rules"]
    await api.patch(path, {"rules": [READ_PODS]})
    await ensure_policy(api.cluster)
    after = (await api.get(path))[1]["rules"]
    assert READ_PODS in after
    assert all(rule in after for rule in rules)
    keep = {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}
    await api.patch(path, {"rules": [READ_PODS], "metadata": keep})
    await ensure_policy(api.cluster)
    assert (await api.get(path))[1]["rules"] == [READ_PODS]


async def test_nobody_grants_more_than_they_have(api: API):
    await ensure_policy(api.cluster)
    await api.created(BINDINGS, binding("joe", "admin", ("User", "joe"), to="ClusterRole"))
    assert (await api.post(ROLES, role("reader", READ_PODS), user=JOE))[0] == 201
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    code, answer = await api.post(ROLES, role("nodes", nodes), user=JOE)
    assert code == 403
    assert answer["message"] == (
        'roles.rbac.authorization.k8s.io "nodes" is forbidden: user "joe" '
        '(groups=["developers" "system:authenticated"]) is attempting to grant RBAC permissions not '
        'currently held:\n{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}'
    )
    assert (await api.patch(f"{ROLES}/reader", {"rules": [nodes]}, user=JOE))[0] == 403
    assert (await api.patch(f"{ROLES}/reader", {"metadata": {"labels": {"a": "b"}}}, user=JOE))[0] == 200
    owner = binding("me", "cluster-admin", ("User", "joe"), to="ClusterRole")
    assert (await api.post(BINDINGS, owner, user=JOE))[0] == 403
    code, answer = await api.post(BINDINGS, binding("gone", "nothing", ("User", "x")), user=JOE)
    assert code == 201  # a role that is not there gives nothing


@pytest.mark.parametrize(
    ("obj", "path", "message"),
    [
        (role("x", {"verbs": ["get"], "resources": ["pods"]}), ROLES, "rules[0].apiGroups: Required value"),
        (role("x", {"apiGroups": [""], "resources": ["pods"]}), ROLES, "rules[0].verbs: Required value"),
        (
            role("x", {"verbs": ["get"], "nonResourceURLs": ["/x"]}),
            ROLES,
            "namespaced rules cannot apply to non-resource URLs",
        ),
        (binding("x", "y", ("Robot", "r")), BINDINGS, 'subjects[0].kind: Unsupported value: "Robot"'),
        (binding("x", "y", ("ServiceAccount", "r")), BINDINGS, "subjects[0].namespace: Required value"),
        (binding("x", ""), BINDINGS, "roleRef.name: Required value"),
    ],
)
async def test_roles_and_bindings_are_checked(api: API, obj: dict, path: str, message: str):
    code, answer = await api.post(path, obj)
    assert code == 422
    assert message in answer["message"]


async def test_a_binding_keeps_its_role(api: API):
    await api.created(BINDINGS, binding("x", "y"))
    code, answer = await api.patch(f"{BINDINGS}/x", {"roleRef": {"name": "z"}})
    assert code == 422
    assert "cannot change roleRef" in answer["message"]


async def test_reviews_say_what_others_may(api: API):
    await api.created(ROLES, role("reader", READ_PODS))
    await api.created(BINDINGS, binding("joe", "reader", ("User", "joe")))
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    for verb, allowed in (("list", True), ("delete", False)):
        asked = {"namespace": "default", "resource": "pods", "verb": verb}
        review = await api.created(path, {"spec": {"user": "joe", "resourceAttributes": asked}})
        assert review["status"]["allowed"] is allowed
    code, answer = await api.post(path, {"spec": {"resourceAttributes": {"verb": "get"}}})
    assert (code, "at least one of user or group" in answer["message"]) == (422, True)
    rules = await api.created(
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}, user=JOE
    )
    assert {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]} in rules["status"][
        "resourceRules"
    ]


# Tokens

TOKEN = "/api/v1/namespaces/default/serviceaccounts/default/token"


@pytest.fixture
async def signing(api: API, tmp_path: Path) -> API:
    key = tmp_path / "sa.key"
    key.write_bytes(make_signing_key())
    object.__setattr__(api.cluster, "tokens", Tokens(key))
    return api


async def token_for(api: API, **spec: object) -> str:
    return (await api.created(TOKEN, {"spec": spec}))["status"]["token"]


async def test_a_token_stands_for_its_account(signing: API):
    user = await serviceaccounts.authenticate(signing.cluster, await token_for(signing))
    assert user.name == "system:serviceaccount:default:default"
    assert user.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    )


@pytest.mark.parametrize("spoil", [lambda t: t + "x", lambda t: t[:-4], lambda t: "a.b.c", lambda t: ""])
async def test_what_we_have_not_signed_is_refused(signing: API, spoil):
    token = spoil(await token_for(signing))
    with pytest.raises(InvalidTokenError):
        await serviceaccounts.authenticate(signing.cluster, token)


async def test_a_token_for_somebody_else_is_refused(signing: API):
    token = await token_for(signing, audiences=["vault"])
    with pytest.raises(InvalidTokenError, match="audiences"):
        await serviceaccounts.authenticate(signing.cluster, token)
    review = await signing.created(
        "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token, "audiences": ["vault"]}}
    )
    assert review["status"]["authenticated"] is True
    review = await signing.created("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})
    assert not review["status"].get("authenticated")


async def test_a_token_ends_with_its_pod_and_its_account(signing: API):
    made = await signing.created(PODS, pod())
    bound = {"kind": "Pod", "name": "web", "uid": made["metadata"]["uid"]}
    token = await token_for(signing, boundObjectRef=bound)
    user = await serviceaccounts.authenticate(signing.cluster, token)
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("web",)
    await signing.delete(f"{PODS}/web")
    with pytest.raises(InvalidTokenError, match="gone"):
        await serviceaccounts.authenticate(signing.cluster, token)
    token = await token_for(signing)
    await signing.delete("/api/v1/namespaces/default/serviceaccounts/default")
    with pytest.raises(InvalidTokenError, match="deleted"):
        await serviceaccounts.authenticate(signing.cluster, token)


async def test_tokens_end(signing: API):
    claims = {"aud": ["x"], "sub": "y", "exp": 1000, "nbf": 500}
    token = signing.cluster.tokens.issue(claims)
    assert signing.cluster.tokens.verify(token, now=999)["sub"] == "y"
    for now in (1000, 499):
        with pytest.raises(InvalidTokenError):
            signing.cluster.tokens.verify(token, now=now)


async def test_a_node_gets_tokens_for_its_own_pods_only(signing: API):
    node = authn.user("system:node:n1", ("system:nodes",))
    made = await signing.created(PODS, pod("mine", nodeName="n1"))
    await signing.created(PODS, pod("theirs", nodeName="n2"))
    ref = {"kind": "Pod", "name": "mine", "uid": made["metadata"]["uid"]}
    assert (await signing.post(TOKEN, {"spec": {"boundObjectRef": ref}}, user=node))[0] == 201
    for spec in ({}, {"boundObjectRef": {"kind": "Pod", "name": "theirs"}}):
        code, answer = await signing.post(TOKEN, {"spec": spec}, user=node)
        assert (code, "node requested token" in answer["message"]) == (403, True)


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"expirationSeconds": 30}, 422, "may not specify a duration less than 10 minutes"),
        ({"boundObjectRef": {"kind": "Pod", "name": "none"}}, 404, 'pods "none" not found'),
        ({"boundObjectRef": {"kind": "Service", "name": "x"}}, 400, "cannot bind token"),
    ],
)
async def test_requests_that_cannot_be_met(signing: API, spec: dict, code: int, text: str):
    status, answer = await signing.post(TOKEN, {"spec": spec})
    assert status == code
    assert text in answer["message"]


async def test_pods_find_their_token_unless_they_do_not_want_it(signing: API):
    made = await signing.created(PODS, pod())
    (volume,) = made["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert made["spec"]["containers"][0]["volumeMounts"] == [
        {
            "name": volume["name"],
            "readOnly": True,
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        }
    ]
    made = await signing.created(PODS, pod("shy", automountServiceAccountToken=False))
    assert "volumes" not in made["spec"]
    code, answer = await signing.post(PODS, pod("who", serviceAccountName="nobody"))
    assert (code, answer["message"]) == (
        403,
        'pods "who" is forbidden: error looking up service account default/nobody: '
        'serviceaccount "nobody" not found',
    )
