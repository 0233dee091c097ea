"""Services: cluster IPs and node ports are given out once and taken back."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from podling.apiserver.clusterip import AllocationError, ServiceAllocator

SERVICES = "/api/v1/namespaces/default/services"


def service(name="web", **spec):
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


async def test_a_service_gets_an_address_of_the_range(api):
    made = await api.created(SERVICES, service())
    address = made["spec"]["clusterIP"]
    assert address.startswith("10.96.")
    assert made["spec"]["clusterIPs"] == [address]
    assert made["spec"]["ipFamilies"] == ["IPv4"]
    _, after = await api.put(f"{SERVICES}/web", service(selector={"a": "b"}))
    assert after["spec"]["clusterIP"] == address


async def test_an_address_is_given_out_once_and_taken_back(api):
    await api.created(SERVICES, service(clusterIP="10.96.0.10"))
    status, answer = await api.post(SERVICES, service("other", clusterIP="10.96.0.10"))
    assert status == 422
    assert answer["message"] == (
        'Service "other" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.10"]: '
        "failed to allocate IP 10.96.0.10: provided IP is already allocated"
    )
    await api.delete(f"{SERVICES}/web")
    await api.created(SERVICES, service("other", clusterIP="10.96.0.10"))


async def test_an_address_outside_the_range_is_refused(api):
    status, answer = await api.post(SERVICES, service(clusterIP="192.168.0.1"))
    assert status == 422
    assert "is not in the valid range. The range of valid IPs is 10.96.0.0/16" in answer["message"]


async def test_a_headless_service_needs_none(api):
    made = await api.created(SERVICES, service(clusterIP="None"))
    assert made["spec"]["clusterIP"] == "None"
    await api.delete(f"{SERVICES}/web")


async def test_a_dry_run_takes_nothing(api):
    await api.created(SERVICES, service(clusterIP="10.96.0.20"), dryRun="All")
    await api.created(SERVICES, service(clusterIP="10.96.0.20"))


async def test_a_create_that_fails_gives_back_what_it_took(api):
    await api.created(SERVICES, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    body = service("b", type="NodePort", clusterIP="10.96.0.30", ports=[{"port": 80, "nodePort": 30080}])
    status, answer = await api.post(SERVICES, body)
    assert status == 422
    assert "provided port is already allocated" in answer["message"]
    await api.created(SERVICES, service("c", clusterIP="10.96.0.30"))


async def test_node_ports_are_chosen_from_their_range(api):
    made = await api.created(SERVICES, service(type="NodePort"))
    port = made["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    _, after = await api.put(f"{SERVICES}/web", service(type="NodePort"))
    assert after["spec"]["ports"][0]["nodePort"] == port


async def test_a_service_that_becomes_a_node_port_gets_one_and_gives_it_back(api):
    await api.created(SERVICES, service())
    _, after = await api.patch(f"{SERVICES}/web", {"spec": {"type": "NodePort"}})
    port = after["spec"]["ports"][0]["nodePort"]
    _, after = await api.patch(f"{SERVICES}/web", {"spec": {"type": "ClusterIP"}})
    assert "nodePort" not in after["spec"]["ports"][0]
    ports = [{"port": 81, "nodePort": port}]
    await api.created(SERVICES, service("other", type="NodePort", ports=ports))


def test_the_range_can_be_used_up():
    allocator = ServiceAllocator(IPv4Network("10.96.0.0/29"))
    given = {allocator.new_address() for _ in range(6)}
    assert len(given) == 6
    with pytest.raises(AllocationError, match="range is full"):
        allocator.new_address()
    allocator.release_address("10.96.0.3")
    assert allocator.new_address() == "10.96.0.3"


def test_chosen_addresses_are_left_to_people():
    allocator = ServiceAllocator(IPv4Network("10.96.0.0/16"))
    assert all(not allocator.new_address().startswith("10.96.0.") for _ in range(500))
