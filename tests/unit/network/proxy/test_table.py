"""What changes in the kernel when services change."""

from __future__ import annotations

from ipaddress import IPv4Network

from podling.network.proxy import ruleset
from podling.network.proxy.rules import NO_RULES, Backend, Chain, Frontend, Kind, ServiceRules
from podling.network.proxy.table import Table

WEB = Frontend("10.96.0.20", 6, 80)
DNS = Frontend("10.96.0.10", 17, 53)
ONE, TWO = Backend("10.244.1.2", 8080), Backend("10.244.1.3", 8080)


def table() -> Table:
    return Table(IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/16"))


def rules(frontend: Frontend, *backends: Backend, sticky_s: int = 0) -> ServiceRules:
    return ServiceRules(
        services={frontend: Chain(Kind.CLUSTER, len(backends), sticky_s=sticky_s)},
        backends={(frontend, n): backend for n, backend in enumerate(backends)},
    )


def whats(made: Table) -> list[str]:
    """The changes in words, as one transaction; done."""
    found = [request.what.replace(f" {ruleset.TABLE}", "") for request in made.changes()]
    made.done()
    return found


def test_only_what_differs_is_sent():
    made = table()
    made.take(("default", "web"), rules(WEB, ONE))
    assert whats(made) == [
        "add chain cluster-1",
        "add rule cluster-1",
        "add rule cluster-1",
        "add element services",
        "add element backends",
    ]
    made.take(("default", "web"), rules(WEB, ONE))
    assert whats(made) == []
    made.take(("default", "web"), rules(WEB, TWO))
    assert whats(made) == ["delete element backends", "add element backends"]
    made.take(("default", "web"), NO_RULES)
    assert whats(made) == ["delete element services", "delete element backends"]
    assert list(made.keys) == []


def test_what_comes_and_goes_between_two_transactions_is_not_sent():
    made = table()
    made.take(("default", "web"), rules(WEB, ONE))
    made.take(("default", "web"), NO_RULES)
    assert "add element services" not in whats(made)


def test_a_contested_address_goes_to_the_next_when_the_first_lets_go():
    made = table()
    made.take(("a", "first"), rules(WEB, ONE))
    made.take(("b", "second"), rules(WEB, TWO))
    assert made.backends(WEB) == {ONE}
    assert made.refused(("b", "second")) == [WEB]
    whats(made)
    made.take(("a", "first"), NO_RULES)
    assert made.backends(WEB) == {TWO}
    assert made.refused(("b", "second")) == []
    assert whats(made) == ["delete element backends", "add element backends"]


def test_a_service_that_waited_in_vain_leaves_no_trace():
    made = table()
    made.take(("a", "first"), rules(WEB, ONE))
    made.take(("b", "second"), rules(WEB, TWO))
    made.take(("b", "second"), NO_RULES)
    made.take(("a", "first"), NO_RULES)
    whats(made)
    assert made.backends(WEB) == set()
    assert list(made.keys) == []


def test_udp_flows_are_looked_after_only_for_udp():
    made = table()
    made.take(("default", "web"), rules(WEB, ONE))
    assert not made.udp_frontends
    made.take(("kube-system", "dns"), rules(DNS, ONE))
    assert made.udp_frontends == {DNS}
    made.done()
    made.take(("kube-system", "dns"), rules(DNS, TWO))
    assert made.udp_frontends == {DNS}


def test_a_backend_clients_stick_to_keeps_its_identity_while_numbers_change_hands():
    made = table()
    made.take(("default", "web"), rules(WEB, ONE, TWO, sticky_s=60))
    before = {backend: made._ids[backend] for backend in (ONE, TWO)}
    whats(made)
    made.take(("default", "web"), rules(WEB, TWO, sticky_s=60))
    assert made.sticky_lost
    assert made.ids(WEB) == {before[TWO]}
    assert ONE not in made._ids


def test_switching_affinity_moves_the_backends_to_the_other_map():
    made = table()
    made.take(("default", "web"), rules(WEB, ONE))
    whats(made)
    made.take(("default", "web"), rules(WEB, ONE, sticky_s=60))
    changed = whats(made)
    assert "delete element backends" in changed
    assert "add element sticky-backends" in changed
    assert "add element backend-ids" in changed
