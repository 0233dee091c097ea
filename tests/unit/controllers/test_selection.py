from __future__ import annotations

from typing import Any

import msgspec

from podling.api.core_v1 import Pod, Service
from podling.controllers.selection import ServiceSelection, matches


class Source:
    """What a selection needs of an informer: a store, and handlers that follow it."""

    def __init__(self) -> None:
        self.store: dict[tuple[str, str], Any] = {}
        self._handlers: list[Any] = []

    def add_handler(self, handler: Any) -> None:
        self._handlers.append(handler)

    def put(self, obj: Any) -> Any:
        key = (obj.metadata.namespace, obj.metadata.name)
        old, self.store[key] = self.store.get(key), obj
        for handler in self._handlers:
            handler(old, obj)
        return obj

    def drop(self, obj: Any) -> None:
        del self.store[obj.metadata.namespace, obj.metadata.name]
        for handler in self._handlers:
            handler(obj, None)


def service(name: str, namespace: str = "default", **selector: str) -> Service:
    meta = {"name": name, "namespace": namespace}
    return msgspec.convert({"metadata": meta, "spec": {"selector": selector}}, Service)


def pod(name: str, namespace: str = "default", **labels: str) -> Pod:
    return msgspec.convert({"metadata": {"name": name, "namespace": namespace, "labels": labels}}, Pod)


def test_services_and_pods_find_each_other() -> None:
    services, pods = Source(), Source()
    selection: Any = ServiceSelection(services, pods)  # type: ignore[arg-type]
    selection.observe()
    web = services.put(service("web", app="web"))
    front = services.put(service("front", app="web", tier="front"))
    services.put(service("elsewhere", "other", app="web"))
    services.put(service("byhand"))
    one = pods.put(pod("one", app="web", tier="front"))
    two = pods.put(pod("two", app="web"))
    pods.put(pod("three", "other", app="web"))

    def found(of: Pod) -> list[str]:
        return sorted(name for _, name in selection.services_of(of))

    assert (found(one), found(two)) == (["front", "web"], ["web"])
    assert selection.pods_of(web) == [one, two]
    assert selection.pods_of(front) == [one]
    assert selection.pods_of(service("byhand")) == []
    two = pods.put(pod("two", app="db"))
    assert (found(two), selection.pods_of(web)) == ([], [one])
    web = services.put(service("web", app="db"))
    assert (found(one), found(two), selection.pods_of(web)) == (["front"], ["web"], [two])
    pods.drop(two)
    services.drop(front)
    assert (found(one), selection.pods_of(web)) == ([], [])


def test_an_empty_selector_matches_nothing() -> None:
    assert not matches({}, {"app": "web"})
    assert matches({"app": "web"}, {"app": "web", "x": "y"})
