from __future__ import annotations

from msgspec import structs

from podling.api.discovery_v1 import EndpointSlice
from podling.controllers.endpointslice import MAX_ENDPOINTS, Plan, plan_slices
from unit.controllers.test_endpoints import PORT, pod, service


def named(plan: Plan) -> list[EndpointSlice]:
    """The slices a plan creates, as the server would have stored them."""
    return [
        structs.replace(s, metadata=structs.replace(s.metadata, name=f"web-{i}", uid=f"u{i}"))
        for i, s in enumerate(plan.create)
    ]


def addresses(slices: list[EndpointSlice]) -> list[list[str]]:
    return [[e.addresses[0] for e in s.endpoints] for s in slices]


def test_conditions_tell_ready_serving_and_terminating() -> None:
    pods = [
        pod("a", "10.244.1.1"),
        pod("b", "10.244.1.2", ready=False),
        pod("c", "10.244.1.3", deleting=True),
        pod("d", "10.244.1.4", deleting=True, ready=False),
        pod("e", "10.244.1.5", phase="Failed"),
        pod("f", None),
        pod("g", "10.244.1.7", app="other"),
    ]
    (only,) = plan_slices(service(PORT), pods, []).create
    found = {
        e.addresses[0]: (e.conditions.ready, e.conditions.serving, e.conditions.terminating)
        for e in only.endpoints
        if e.conditions
    }
    assert found == {
        "10.244.1.1": (True, True, False),
        "10.244.1.2": (False, False, False),
        "10.244.1.3": (False, True, True),
        "10.244.1.4": (False, False, True),
    }
    assert only.metadata.labels["kubernetes.io/service-name"] == "web"
    assert [(r.kind, r.name, r.controller) for r in only.metadata.owner_references] == [
        ("Service", "web", True)
    ]
    (published,) = plan_slices(service(PORT, publishNotReadyAddresses=True), pods, []).create
    assert all(e.conditions and e.conditions.ready for e in published.endpoints)


def test_what_is_right_is_left_alone() -> None:
    pods = [pod("a", "10.244.1.1"), pod("b", "10.244.1.2")]
    slices = named(plan_slices(service(PORT), pods, []))
    assert plan_slices(service(PORT), reversed(pods), slices) == Plan()


def test_a_change_touches_the_slice_it_is_in() -> None:
    pods = [pod(f"p{i:03}", f"10.244.{i // 200}.{i % 200 + 1}") for i in range(250)]
    slices = named(plan_slices(service(PORT), pods, []))
    assert [len(s.endpoints) for s in slices] == [MAX_ENDPOINTS, MAX_ENDPOINTS, 50]
    pods[120] = pod("p120", "10.244.0.121", ready=False)
    plan = plan_slices(service(PORT), pods, slices)
    assert [s.metadata.name for s in plan.update] == ["web-1"]
    assert not plan.create
    assert not plan.delete
    plan = plan_slices(service(PORT), [*pods[:120], *pods[121:], pod("new", "10.244.9.9")], slices)
    # The one that came takes the place of the one that went: the fullest slice with room is filled first.
    assert [(s.metadata.name, len(s.endpoints)) for s in plan.update] == [("web-1", MAX_ENDPOINTS)]


def test_named_ports_that_differ_make_slices_that_differ() -> None:
    port = {"name": "http", "port": 80, "targetPort": "http"}
    one = pod("a", "10.244.1.1", ports=[{"name": "http", "containerPort": 8080}])
    two = pod("b", "10.244.1.2", ports=[{"name": "http", "containerPort": 9090}])
    slices = plan_slices(service(port), [one, two], []).create
    assert [s.ports[0].port for s in slices] == [8080, 9090]
    assert addresses(slices) == [["10.244.1.1"], ["10.244.1.2"]]


def test_one_empty_slice_is_left_when_there_is_nothing() -> None:
    (empty,) = named(plan_slices(service(PORT), [], []))
    assert (empty.address_type, empty.endpoints, empty.ports) == ("IPv4", [], [])
    assert plan_slices(service(PORT), [], [empty]) == Plan()
    filled = plan_slices(service(PORT), [pod("a", "10.244.1.1")], [empty])
    assert filled.delete == [empty]
    assert addresses(filled.create) == [["10.244.1.1"]]


def test_labels_of_the_service_are_the_slices_too() -> None:
    pods = [pod("a", "10.244.1.1")]
    web = service(PORT)
    slices = named(plan_slices(web, pods, []))
    web.metadata.labels = {"tier": "front"}
    (changed,) = plan_slices(web, pods, slices).update
    assert changed.metadata.labels["tier"] == "front"
    (headless,) = plan_slices(service(PORT, clusterIP="None"), pods, []).create
    assert headless.metadata.labels["service.kubernetes.io/headless"] == ""
