"""Services: cluster IPs and node ports are given out when the object is stored, and returned with it."""

from __future__ import annotations

from podling.api.defaults import initial_status
from podling.api.validation import FieldError
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.clusterip import AllocationError, ServiceAllocator
from podling.apiserver.resource import Object, Strategy

_IMMUTABLE = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


class ServiceStrategy(Strategy):
    create_on_update = True
    returns_deleted = True

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj["status"] = initial_status("Service", obj)

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_update(cluster, new, old)
        spec, before = new.setdefault("spec", {}), old.get("spec") or {}
        if spec.get("type") != before.get("type"):
            return
        for name in _IMMUTABLE:
            if not spec.get(name) and name in before:
                spec[name] = before[name]
        ports = {(p.get("protocol"), p.get("port")): p for p in before.get("ports") or []}
        for port in spec.get("ports") or []:
            known = ports.get((port.get("protocol"), port.get("port")))
            if known and known.get("nodePort") and not port.get("nodePort"):
                port["nodePort"] = known["nodePort"]

    def admit(self, cluster: Cluster, obj: Object, *, dry_run: bool) -> None:
        spec = obj["spec"]
        if spec.get("type") == "ExternalName":
            return
        taken = Allocation(cluster.services)
        try:
            taken.for_service(obj)
        except AllocationError as err:
            taken.undo()
            raise _invalid(obj, str(err)) from err
        if dry_run:
            taken.undo()

    def removed(self, cluster: Cluster, obj: Object) -> None:
        release(cluster.services, obj)


class Allocation:
    """Addresses and ports taken for one service, to be undone together."""

    def __init__(self, allocator: ServiceAllocator) -> None:
        self._allocator = allocator
        self._addresses: list[str] = []
        self._ports: list[int] = []

    def for_service(self, obj: Object) -> None:
        """Fill in what is missing and take what is named. Raises AllocationError."""
        spec = obj["spec"]
        if spec.get("clusterIP") != "None":
            self._address(spec)
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports") or []:
                self._port(port)

    def undo(self) -> None:
        for address in self._addresses:
            self._allocator.release_address(address)
        for port in self._ports:
            self._allocator.release_port(port)

    def _address(self, spec: Object) -> None:
        address = spec.get("clusterIP")
        if address:
            self._allocator.take_address(address)
        else:
            address = self._allocator.new_address()
        self._addresses.append(address)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]

    def _port(self, port: Object) -> None:
        number = port.get("nodePort")
        if number:
            self._allocator.take_port(number)
        else:
            number = port["nodePort"] = self._allocator.new_port()
        self._ports.append(number)


def release(allocator: ServiceAllocator, obj: Object) -> None:
    spec = obj.get("spec") or {}
    address = spec.get("clusterIP")
    if address and address != "None":
        allocator.release_address(address)
    for port in spec.get("ports") or []:
        if port.get("nodePort"):
            allocator.release_port(port["nodePort"])


def recall(allocator: ServiceAllocator, obj: Object) -> None:
    """Take what a stored service has, at start. Raises AllocationError."""
    spec = obj.get("spec") or {}
    if spec.get("clusterIP") not in (None, "", "None"):
        allocator.take_address(spec["clusterIP"])
    for port in spec.get("ports") or []:
        if port.get("nodePort"):
            allocator.take_port(port["nodePort"])


def _invalid(obj: Object, why: str) -> errors.APIError:
    addresses = obj["spec"].get("clusterIPs") or []
    text = ",".join(f'"{a}"' for a in addresses)
    fault = FieldError(
        field="spec.clusterIPs", reason="FieldValueInvalid", message=f"Invalid value: [{text}]: {why}"
    )
    return errors.invalid("Service", obj["metadata"]["name"], [fault])
