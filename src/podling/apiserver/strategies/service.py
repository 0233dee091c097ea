"""Services: cluster IPs and node ports are given out when the object is stored, and returned with it."""

from __future__ import annotations

from dataclasses import dataclass

from podling.api.defaults import initial_status
from podling.api.validation import FieldError
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.clusterip import AllocationError, ServiceAllocator
from podling.apiserver.resource import Finish, Object, Strategy

_ADDRESSES = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


class ServiceStrategy(Strategy):
    create_on_update = True
    returns_deleted = True

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj["status"] = initial_status("Service", obj)

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_update(cluster, new, old)
        spec, before = new.setdefault("spec", {}), old.get("spec") or {}
        _keep_addresses(spec, before)
        _keep_node_ports(spec, before)

    def admit(self, cluster: Cluster, obj: Object, *, dry_run: bool) -> None:
        taken = _allocate(cluster, obj, Claims(frozenset(), frozenset()))
        if dry_run:
            taken.undo()

    def admit_update(self, cluster: Cluster, new: Object, old: Object) -> Finish | None:
        held = claims(old)
        taken = _allocate(cluster, new, held)

        def finish(stored: bool) -> None:
            if not stored:
                taken.undo()
                return
            kept = claims(new)
            release(cluster.services, Claims(held.addresses - kept.addresses, held.ports - kept.ports))

        return finish

    def removed(self, cluster: Cluster, obj: Object) -> None:
        release(cluster.services, claims(obj))


def _needs_address(spec: Object) -> bool:
    return spec.get("type") != "ExternalName"


def _needs_node_ports(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def _keep_addresses(spec: Object, before: Object) -> None:
    """An update that leaves its addresses out means those it has; one to a type without drops them."""
    if _needs_address(before) and _needs_address(spec):
        for name in _ADDRESSES:
            if not spec.get(name) and name in before:
                spec[name] = before[name]
    elif not _needs_address(spec):
        for name in _ADDRESSES:
            if spec.get(name) == before.get(name):
                spec.pop(name, None)


def _keep_node_ports(spec: Object, before: Object) -> None:
    known = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in before.get("ports") or []}
    for port in spec.get("ports") or []:
        held = known.get((port.get("protocol"), port.get("port")))
        if held and _needs_node_ports(spec) and not port.get("nodePort"):
            port["nodePort"] = held
        elif held and not _needs_node_ports(spec) and port.get("nodePort") == held:
            del port["nodePort"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a service has from the allocator."""

    addresses: frozenset[str]
    ports: frozenset[int]


def claims(obj: Object) -> Claims:
    spec = obj.get("spec") or {}
    address = spec.get("clusterIP")
    ports = (port.get("nodePort") for port in spec.get("ports") or [])
    return Claims(
        frozenset([address] if address and address != "None" else []), frozenset(filter(None, ports))
    )


def release(allocator: ServiceAllocator, claimed: Claims) -> None:
    for address in claimed.addresses:
        allocator.release_address(address)
    for port in claimed.ports:
        allocator.release_port(port)


def recall(allocator: ServiceAllocator, obj: Object) -> None:
    """Take what a stored service has, at start. Raises AllocationError."""
    claimed = claims(obj)
    for address in claimed.addresses:
        allocator.take_address(address)
    for port in claimed.ports:
        allocator.take_port(port)


def _allocate(cluster: Cluster, obj: Object, held: Claims) -> Allocation:
    """Give the service what it needs beyond `held`. Raises APIError 422."""
    taken = Allocation(cluster.services, held)
    try:
        taken.for_service(obj)
    except AllocationError as err:
        taken.undo()
        raise _invalid(obj, str(err)) from err
    return taken


class Allocation:
    """Addresses and ports taken for one service, to be undone together."""

    def __init__(self, allocator: ServiceAllocator, held: Claims) -> None:
        self._allocator = allocator
        self._held = held
        self._addresses: list[str] = []
        self._ports: list[int] = []

    def for_service(self, obj: Object) -> None:
        """Fill in what is missing and take what is named. Raises AllocationError."""
        spec = obj["spec"]
        if _needs_address(spec) and spec.get("clusterIP") != "None":
            self._address(spec)
        for port in spec.get("ports") or []:
            if _needs_node_ports(spec) or port.get("nodePort"):
                self._port(port)

    def undo(self) -> None:
        release(self._allocator, Claims(frozenset(self._addresses), frozenset(self._ports)))

    def _address(self, spec: Object) -> None:
        address = spec.get("clusterIP")
        if address in self._held.addresses:
            return
        if address:
            self._allocator.take_address(address)
        else:
            address = self._allocator.new_address()
        self._addresses.append(address)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]

    def _port(self, port: Object) -> None:
        number = port.get("nodePort")
        if number in self._held.ports:
            return
        if number:
            self._allocator.take_port(number)
        else:
            number = port["nodePort"] = self._allocator.new_port()
        self._ports.append(number)


def _invalid(obj: Object, why: str) -> errors.APIError:
    addresses = obj["spec"].get("clusterIPs") or []
    text = ",".join(f'"{a}"' for a in addresses)
    fault = FieldError(
        field="spec.clusterIPs", reason="FieldValueInvalid", message=f"Invalid value: [{text}]: {why}"
    )
    return errors.invalid("Service", obj["metadata"]["name"], [fault])
