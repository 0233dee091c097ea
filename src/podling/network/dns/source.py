"""What the zone's names are made of: the services as watched, with an index by address for reverse names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from podling.api.core_v1 import Service
from podling.network.services import Endpoint, Key, ServiceView


class ViewSource:
    def __init__(self, view: ServiceView) -> None:
        self._view = view
        self._at: dict[str, dict[Key, None]] = {}
        self._of: dict[Key, frozenset[str]] = {}

    def service(self, key: Key) -> Service | None:
        return self._view.service(key)

    def endpoints(self, key: Key) -> Sequence[Endpoint]:
        return self._view.endpoints(key)

    def service_keys(self) -> Iterable[Key]:
        return self._view.service_keys()

    def services_at(self, address: str) -> Iterable[Key]:
        return list(self._at.get(address, ()))

    def rebuild(self) -> None:
        for key in self._view.service_keys():
            self.changed(key)

    def changed(self, key: Key) -> None:
        old, new = self._of.get(key, frozenset()), self._addresses(key)
        for address in old - new:
            self._at[address].pop(key)
            if not self._at[address]:
                del self._at[address]
        for address in new - old:
            self._at.setdefault(address, {})[key] = None
        if new:
            self._of[key] = new
        else:
            self._of.pop(key, None)

    def _addresses(self, key: Key) -> frozenset[str]:
        service = self._view.service(key)
        if service is None or service.spec is None or not service.spec.cluster_ip:
            return frozenset()
        if service.spec.cluster_ip != "None":
            return frozenset([service.spec.cluster_ip])
        return frozenset(endpoint.address for endpoint in self._view.endpoints(key))
