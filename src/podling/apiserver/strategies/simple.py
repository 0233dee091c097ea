"""Kinds whose peculiarities are a line or two."""

from __future__ import annotations

from podling.apiserver.resource import Strategy


class NodeStrategy(Strategy):
    """A kubelet registers its node with the status it has: nothing is reset at create."""


class GenerationStrategy(Strategy):
    generation = True


class EventStrategy(Strategy):
    create_on_update = True


class EndpointsStrategy(Strategy):
    create_on_update = True


class LeaseStrategy(Strategy):
    create_on_update = True
    unconditional_update = False


class ServiceAccountStrategy(Strategy):
    returns_deleted = True
