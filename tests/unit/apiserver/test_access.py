"""Who may do what, and which paths there are."""

from __future__ import annotations

import pytest

from podling.apiserver import authn
from podling.apiserver.request import ANONYMOUS
from unit.apiserver.harness import CONFIG_MAPS, PODS, config_map, pod

NODE = authn.user("system:node:n1", ("system:nodes",))
SCHEDULER = authn.user("system:kube-scheduler", ())
JOE = authn.user("joe", ("developers",))
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
async def test_health_and_version_are_for_everyone(api, path):
    assert (await api.get(path, user=ANONYMOUS))[0] == 200


@pytest.mark.parametrize("path", ["/api", "/apis", PODS, "/metrics", "/nope", "/"])
async def test_everything_else_needs_a_user(api, path):
    status, answer = await api.get(path, user=ANONYMOUS)
    assert (status, answer["reason"], answer["message"]) == (401, "Unauthorized", "Unauthorized")


async def test_a_stranger_may_discover_and_nothing_more(api):
    assert (await api.get("/api/v1", user=JOE))[0] == 200
    status, answer = await api.get(PODS, user=JOE)
    assert (status, answer["reason"]) == (403, "Forbidden")
    assert answer["message"] == (
        'pods is forbidden: User "joe" cannot list resource "pods" in API group "" in the namespace "default"'
    )
    _, answer = await api.get(f"{PODS}/web/log", user=JOE)
    assert answer["message"] == (
        'pods "web" is forbidden: User "joe" cannot get resource "pods/log" in API group "" '
        'in the namespace "default"'
    )
    _, answer = await api.get("/api/v1/nodes", user=JOE)
    assert answer["message"].endswith(
        'User "joe" cannot list resource "nodes" in API group "" at the cluster scope'
    )
    _, answer = await api.get(f"{LEASES}/x", user=JOE)
    assert answer["message"].startswith('leases.coordination.k8s.io "x" is forbidden')
    _, answer = await api.get("/metrics", user=JOE)
    assert answer["message"] == 'forbidden: User "joe" cannot get path "/metrics"'


async def test_a_node_writes_itself_and_no_other(api):
    for name in ("n1", "n2"):
        await api.created("/api/v1/nodes", {"metadata": {"name": name}})
    status = {"status": {"addresses": []}}
    assert (await api.patch("/api/v1/nodes/n1/status", status, user=NODE))[0] == 200
    code, answer = await api.patch("/api/v1/nodes/n2/status", status, user=NODE)
    assert (code, answer["message"]) == (
        403,
        'nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"',
    )
    assert (await api.get("/api/v1/nodes", user=NODE))[0] == 200
    assert (await api.delete("/api/v1/nodes/n1", user=NODE))[0] == 403


async def test_a_node_has_its_own_lease(api):
    lease = {"metadata": {"name": "n1"}, "spec": {"leaseDurationSeconds": 40}}
    assert (await api.post(LEASES, lease, user=NODE))[0] == 201
    assert (await api.patch(f"{LEASES}/n1", {"spec": {"holderIdentity": "n1"}}, user=NODE))[0] == 200
    assert (await api.patch(f"{LEASES}/n2", {"spec": {}}, user=NODE))[0] == 403
    other = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    assert (await api.post(other, lease, user=NODE))[0] == 403


async def test_a_node_reports_on_its_own_pods(api):
    await api.created(PODS, pod("mine", nodeName="n1"))
    await api.created(PODS, pod("theirs", nodeName="n2"))
    status = {"status": {"phase": "Running"}}
    assert (await api.patch(f"{PODS}/mine/status", status, user=NODE))[0] == 200
    code, answer = await api.patch(f"{PODS}/theirs/status", status, user=NODE)
    assert code == 403
    assert (
        'node "n1" can only update pod status for pods with spec.nodeName set to itself' in answer["message"]
    )
    assert (await api.delete(f"{PODS}/theirs", user=NODE))[0] == 403
    assert (await api.delete(f"{PODS}/mine", {"gracePeriodSeconds": 0}, user=NODE))[0] == 200
    assert (await api.delete(f"{PODS}/absent", user=NODE))[0] == 404


async def test_a_node_reads_secrets_one_by_one(api):
    secrets = "/api/v1/namespaces/default/secrets"
    await api.created(secrets, {"metadata": {"name": "s"}})
    assert (await api.get(f"{secrets}/s", user=NODE))[0] == 200
    assert (await api.get(secrets, user=NODE))[0] == 403
    assert (await api.get(secrets, fieldSelector="metadata.name=s", user=NODE))[0] == 200
    assert (await api.post(secrets, {"metadata": {"name": "t"}}, user=NODE))[0] == 403


async def test_the_scheduler_binds_and_does_not_create(api):
    await api.created(PODS, pod())
    assert (await api.post(PODS, pod("other"), user=SCHEDULER))[0] == 403
    binding = {"metadata": {"name": "web"}, "target": {"name": "n1"}}
    assert (await api.post(f"{PODS}/web/binding", binding, user=SCHEDULER))[0] == 201


async def test_one_may_ask_what_one_may(api):
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    async def allowed(user, **attributes):
        made = await api.created(path, {"spec": {"resourceAttributes": attributes}}, user=user)
        return made["status"]["allowed"]

    assert await allowed(NODE, verb="list", resource="pods")
    assert not await allowed(JOE, verb="list", resource="pods")
    whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    made = await api.created(whoami, {}, user=JOE)
    assert made["status"]["userInfo"] == {
        "username": "joe",
        "groups": ["developers", "system:authenticated"],
    }


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/zebras", 404),
        ("GET", "/apis/none.io/v1/pods", 404),
        ("GET", "/api/v2/pods", 404),
        ("GET", f"{PODS}/web/nope", 404),
        ("GET", f"{PODS}/web/status/more", 404),
        ("GET", "/api/v1/namespaces/default/nodes", 404),
        ("GET", "/nope", 404),
        ("GET", "/api/v1/namespaces//pods", 404),
        ("GET", "/api/v1/namespaces/default/pods/a/b/c/d", 404),
        ("GET", f"{PODS}/a%2Fb", 404),
        ("POST", f"{PODS}/web", 405),
        ("PUT", PODS, 405),
        ("PATCH", PODS, 405),
        ("POST", "/api/v1/pods", 405),
        ("DELETE", "/api/v1/pods", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("DELETE", f"{PODS}/web/status", 405),
        ("GET", "/api/v1/namespaces/default/bindings", 405),
        ("POST", "/version", 405),
    ],
)
async def test_paths_and_methods_that_do_not_exist(api, method, path, code):
    body = {} if method != "GET" else None
    status, answer = await api.call(method, path, body)
    assert (status, answer["kind"]) == (code, "Status")


async def test_an_unknown_kind_is_reported_as_kubectl_expects(api):
    _, answer = await api.get("/api/v1/zebras")
    assert answer["message"] == "the server could not find the requested resource"


async def test_discovery_lists_kinds_in_both_forms(api):
    _, versions = await api.get("/api")
    assert versions["versions"] == ["v1"]
    _, core = await api.get("/api/v1")
    by_name = {r["name"]: r for r in core["resources"]}
    assert by_name["pods"]["shortNames"] == ["po"]
    assert by_name["pods"]["categories"] == ["all"]
    assert by_name["pods/log"]["verbs"] == ["get"]
    assert not by_name["nodes"]["namespaced"]
    _, groups = await api.get("/apis")
    assert "coordination.k8s.io" in [g["name"] for g in groups["groups"]]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    answer = await api.answer("GET", "/api", accept=accept)
    assert answer.content_type.endswith("as=APIGroupDiscoveryList")
    _, document = await api.get("/api", accept=accept)
    resources = document["items"][0]["versions"][0]["resources"]
    pods = next(r for r in resources if r["resource"] == "pods")
    assert (pods["scope"], pods["responseKind"]["kind"]) == ("Namespaced", "Pod")
    assert {"subresource": "log", "responseKind": {"group": "", "version": "v1", "kind": "Pod"}}.items() <= (
        next(s for s in pods["subresources"] if s["subresource"] == "log").items()
    )


async def test_metrics_count_requests(api):
    await api.created(CONFIG_MAPS, config_map())
    status, text = await api.get("/metrics")
    assert status == 200
    assert b'apiserver_request_total{group="",resource="configmaps",subresource="",verb="CREATE"} 1' in text


async def test_readiness_can_be_asked_in_detail(api):
    status, text = await api.get("/readyz", verbose="")
    assert (status, text) == (200, b"[+]ping ok\n[+]log ok\n[+]store ok\nreadyz check passed\n")
