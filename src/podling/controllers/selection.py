"""Which services select a pod, and which pods a service: answered by index, not by looking at all.

A service is entered under one pair of its selector, a pod under every pair of its labels. With ten
thousand services a change of a pod then costs as many look-ups as the pod has labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podling.api.core_v1 import Pod, Service
from podling.client.informer import Informer, Key, object_key

_Pair = tuple[str, str, str]
"""(namespace, label, value)"""


class ServiceSelection:
    """Owned by one controller; give its observers to the informers before that controller's handlers."""

    def __init__(self, services: Informer[Service], pods: Informer[Pod]) -> None:
        self._services = services
        self._pods = pods
        self._by_selector: dict[_Pair, set[Key]] = {}
        self._by_label: dict[_Pair, set[Key]] = {}

    def observe(self) -> None:
        """Follow the informers from now on."""
        self._services.add_handler(self._on_service)
        self._pods.add_handler(self._on_pod)

    def services_of(self, pod: Pod) -> Iterator[Key]:
        """Services of the pod's namespace whose selector matches its labels."""
        labels = pod.metadata.labels
        for pair in _pairs(pod.metadata.namespace, labels):
            for key in self._by_selector.get(pair, ()):
                service = self._services.store.get(key)
                if service is not None and matches(_selector(service), labels):
                    yield key

    def pods_of(self, service: Service) -> list[Pod]:
        """Pods of the service's namespace that its selector matches, by name."""
        selector = _selector(service)
        pairs = _pairs(service.metadata.namespace, selector)
        candidates: set[Key] = min(
            (self._by_label.get(pair, set()) for pair in pairs), key=len, default=set()
        )
        found = (self._pods.store.get(key) for key in sorted(candidates))
        return [pod for pod in found if pod is not None and matches(selector, pod.metadata.labels)]

    def _on_service(self, old: Service | None, new: Service | None) -> None:
        for service in (old, new):
            selector = _selector(service) if service is not None else {}
            if service is not None and selector:
                first = min(_pairs(service.metadata.namespace, selector))
                _enter(self._by_selector, first, object_key(service), there=service is new)

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and old.metadata.labels == new.metadata.labels:
            return
        for pod in (old, new):
            if pod is not None:
                for pair in _pairs(pod.metadata.namespace, pod.metadata.labels):
                    _enter(self._by_label, pair, object_key(pod), there=pod is new)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """An empty selector matches nothing: such a service's endpoints are somebody else's."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _selector(service: Service) -> dict[str, str]:
    return service.spec.selector if service.spec else {}


def _pairs(namespace: str | None, labels: Mapping[str, str]) -> list[_Pair]:
    return [(namespace or "", key, value) for key, value in labels.items()]


def _enter(index: dict[_Pair, set[Key]], pair: _Pair, key: Key, *, there: bool) -> None:
    if there:
        index.setdefault(pair, set()).add(key)
    elif pair in index:
        index[pair].discard(key)
        if not index[pair]:
            del index[pair]
