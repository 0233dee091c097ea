from __future__ import annotations

from typing import Any

import msgspec

from podling.api.core_v1 import Namespace, Pod
from podling.api.networking_v1 import NetworkPolicy
from podling.network.policy.model import Allow, Block, Cluster, Direction, Ports, Rules, compute
from podling.network.policy.ruleset import changes, replace_table


def pod(name: str, ip: str, namespace: str = "default", *, host: bool = False, **labels: str) -> Pod:
    ports = [{"containerPort": 8080, "name": "http"}]
    document = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": ports}], "hostNetwork": host},
        "status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"},
    }
    return msgspec.convert(document, Pod)


def policy(**spec: Any) -> NetworkPolicy:
    spec.setdefault("podSelector", {})
    return msgspec.convert({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}, NetworkPolicy)


def rules(policies: list[NetworkPolicy], *pods: Pod) -> Rules:
    namespaces = [msgspec.convert({"metadata": {"name": n}}, Namespace) for n in ("default", "other")]
    return compute(Cluster(policies, namespaces, pods), pods)


WEB, DB = pod("web", "10.0.0.1", app="web"), pod("db", "10.0.0.2", app="db")


def test_without_a_policy_nobody_is_isolated():
    assert rules([], WEB, DB).chains == {}


def test_pods_with_the_same_rules_share_a_chain():
    found = rules([policy(policyTypes=["Ingress"])], WEB, DB, pod("x", "10.0.0.3", "other"))
    assert list(found.chains.values()) == [()]
    assert found.isolated[Direction.INGRESS].keys() == {"10.0.0.1", "10.0.0.2"}
    assert found.isolated[Direction.EGRESS] == {}


def test_pods_of_the_hosts_network_and_ended_ones_are_no_peers():
    done = pod("done", "10.0.0.4", app="web")
    assert done.status is not None
    done.status.phase = "Succeeded"
    allow = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    found = rules([allow], WEB, DB, pod("host", "10.0.0.9", host=True, app="web"), done)
    assert list(found.peers.values()) == [frozenset({"10.0.0.1"})]
    assert "10.0.0.9" not in found.isolated[Direction.INGRESS]


def test_blocks_and_ranges():
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    ports = [{"port": 80, "endPort": 90}, {"protocol": "UDP"}]
    (chain,) = rules([policy(ingress=[{"from": [{"ipBlock": block}], "ports": ports}])], DB).chains.values()
    (allow,) = chain
    assert isinstance(allow.block, Block)
    assert str(allow.block.network) == "10.0.0.0/8"
    assert [str(e) for e in allow.block.excluded] == ["10.1.0.0/16"]
    assert allow.ports == (Ports(6, 80, 90), Ports(17))


def test_a_named_port_nobody_has_allows_nothing():
    (chain,) = rules([policy(ingress=[{"ports": [{"port": "nope"}]}])], DB).chains.values()
    assert chain == ()


def test_a_named_port_of_egress_is_each_peers_own():
    found = rules(
        [policy(policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}])],
        WEB,
        DB,
    )
    (chain,) = found.chains.values()
    assert [allow.ports for allow in chain] == [(Ports(6, 8080, 8080),)]
    assert found.peers[chain[0].peers] == {"10.0.0.1", "10.0.0.2"}


def test_a_new_peer_is_one_element():
    allow = policy(
        podSelector={"matchLabels": {"app": "db"}},
        ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
    )
    before, after = rules([allow], WEB, DB), rules([allow], WEB, DB, pod("web2", "10.0.0.7", app="web"))
    assert before.chains == after.chains
    (request,) = changes(before, after)
    assert request.what.startswith("add element podling_policy peers-")
    assert changes(after, after) == []


def test_another_rule_is_the_whole_table_in_one_transaction():
    before = rules([policy(policyTypes=["Ingress"])], DB)
    after = rules([policy(ingress=[{}])], DB)
    assert list(after.chains.values()) == [(Allow(),)]
    assert [r.what for r in changes(before, after)] == [r.what for r in replace_table(after)]
