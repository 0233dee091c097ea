"""The table this node has, and what must change so that it has what the services want.

Holds the elements of every map as bytes, with the service each belongs to. `take` notes what a service wants
now; `changes` are the requests for all that was noted since the last `done`. Of two services that claim one
address and port the first has it, and the other when the first lets go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network

from podling.linux.netlink import nftables as nft
from podling.linux.netlink.wire import Request
from podling.network.proxy import ruleset
from podling.network.proxy.rules import NO_RULES, Backend, Chain, Frontend, ServiceRules
from podling.network.services import Key

UDP = 17

_Slot = tuple[str, bytes]  # a map and a key in it


class Table:
    def __init__(self, cluster_cidr: IPv4Network | None, service_cidr: IPv4Network | None) -> None:
        self._cluster_cidr = cluster_cidr
        self._service_cidr = service_cidr
        self._rules: dict[Key, ServiceRules] = {}
        self._owners: dict[Frontend, Key] = {}
        self._contested: dict[Frontend, set[Key]] = {}
        self._hairpin: Counter[str] = Counter()
        self._sticky_uses: Counter[Backend] = Counter()
        self._ids: dict[Backend, int] = {}
        self._idle: set[Backend] = set()
        self._next_id = 0
        self._elements: dict[str, dict[bytes, bytes | None]] = {}
        self._before: dict[_Slot, tuple[bool, bytes | None]] = {}
        """What the kernel has in each slot touched since `done`: whether, and which value."""
        self._chains: set[Chain] = set()
        self._new_chains: set[Chain] = set()
        self.udp_frontends: set[Frontend] = set()
        """UDP frontends that lost or changed a backend, or appeared, since `done`."""
        self.sticky_lost = False
        """A backend that clients may stick to went away since `done`."""

    @property
    def keys(self) -> Iterable[Key]:
        return self._rules.keys()

    def refused(self, key: Key) -> list[Frontend]:
        """Frontends the service wants and another one has."""
        return [f for f, waiting in self._contested.items() if key in waiting]

    def backends(self, frontend: Frontend) -> set[Backend]:
        """All it has, from inside or outside."""
        rules = self._rules.get(self._owners.get(frontend, ("", "")), NO_RULES)
        return {backend for (at, _), backend in rules.backends.items() if at == frontend}

    def ids(self, frontend: Frontend) -> set[int]:
        """The identities clients of the frontend may stick to."""
        return {self._ids[backend] for backend in self.backends(frontend) if backend in self._ids}

    def take(self, key: Key, rules: ServiceRules) -> None:
        """What the service wants from now on."""
        old = self._rules.get(key, NO_RULES)
        if rules == old:
            return
        freed = self._release(key, old, kept=rules)
        self._acquire(key, old, rules)
        if rules == NO_RULES:
            del self._rules[key]
        else:
            self._rules[key] = rules
        for frontend in freed:
            waiting = self._contested.get(frontend)
            if waiting:
                heir = min(waiting)
                waiting.discard(heir)
                if not waiting:
                    del self._contested[frontend]
                self._own(heir, frontend, self._rules[heir])
        self._forget_idle()

    def _release(self, key: Key, old: ServiceRules, *, kept: ServiceRules) -> list[Frontend]:
        freed = []
        for frontend, target in old.services.items():
            if self._owners.get(frontend) != key:
                if frontend not in kept.services and frontend in self._contested:
                    self._contested[frontend].discard(key)
                    if not self._contested[frontend]:
                        del self._contested[frontend]
                continue
            name, slot, _ = ruleset.frontend_element(frontend, target)
            # It may move between maps: from its backends to a refusal.
            self._put(name, slot, None, present=False)
            if frontend not in kept.services:
                del self._owners[frontend]
                freed.append(frontend)
        for (frontend, number), backend in old.backends.items():
            owner = self._owners.get(frontend)
            same = (
                kept.backends.get((frontend, number)) == backend
                and _sticky(kept, frontend) == _sticky(old, frontend)
                and frontend not in freed
            )
            if (owner == key or frontend in freed) and not same:
                self._drop_backend(frontend, number, backend, sticky=_sticky(old, frontend))
                self._lost(frontend, old)
        for address in old.hairpin - kept.hairpin:
            self._hairpin[address] -= 1
            if not self._hairpin[address]:
                del self._hairpin[address]
                self._put(ruleset.HAIRPIN, ruleset.hairpin_key(address), None, present=False)
        return freed

    def _acquire(self, key: Key, old: ServiceRules, rules: ServiceRules) -> None:
        for frontend in rules.services:
            if self._owners.setdefault(frontend, key) != key:
                self._contested.setdefault(frontend, set()).add(key)
        self._own_all(key, rules, {f for f in rules.services if self._owners[f] == key})
        for address in rules.hairpin - old.hairpin:
            self._hairpin[address] += 1
            self._put(ruleset.HAIRPIN, ruleset.hairpin_key(address), None, present=True)

    def _own(self, key: Key, frontend: Frontend, rules: ServiceRules) -> None:
        self._owners[frontend] = key
        self._own_all(key, rules, {frontend})

    def _own_all(self, key: Key, rules: ServiceRules, frontends: set[Frontend]) -> None:
        for frontend in frontends:
            target = rules.services[frontend]
            if isinstance(target, Chain) and target not in self._chains:
                self._new_chains.add(target)
            if frontend.protocol == UDP and isinstance(target, Chain):
                self.udp_frontends.add(frontend)
            name, slot, data = ruleset.frontend_element(frontend, target)
            self._put(name, slot, data, present=True)
        for (frontend, number), backend in rules.backends.items():
            if frontend in frontends:
                self._put_backend(frontend, number, backend, sticky=_sticky(rules, frontend))

    def _put_backend(self, frontend: Frontend, number: int, backend: Backend, *, sticky: bool) -> None:
        if not sticky:
            name, slot, data = ruleset.backend_element(frontend, number, backend)
        else:
            slot = ruleset.backend_key(frontend, number)
            if slot in self._elements.get(ruleset.STICKY_BACKENDS, {}):
                return  # unchanged, or it would have been dropped
            if backend not in self._ids:
                self._next_id += 1
                self._ids[backend] = self._next_id
                value = nft.value(ruleset.backend_value(backend))
                self._put(ruleset.BACKEND_IDS, ruleset.id_key(self._next_id), value, present=True)
            self._sticky_uses[backend] += 1
            name, slot, data = ruleset.sticky_element(frontend, number, self._ids[backend])
        self._put(name, slot, data, present=True)

    def _drop_backend(self, frontend: Frontend, number: int, backend: Backend, *, sticky: bool) -> None:
        slot = ruleset.backend_key(frontend, number)
        self._put(ruleset.STICKY_BACKENDS if sticky else ruleset.BACKENDS, slot, None, present=False)
        if sticky:
            self._sticky_uses[backend] -= 1
            self._idle.add(backend)

    def _forget_idle(self) -> None:
        """Take back identities nobody uses; last, because a backend may only have changed its number."""
        for backend in self._idle:
            if not self._sticky_uses[backend]:
                del self._sticky_uses[backend]
                ident = self._ids.pop(backend)
                self._put(ruleset.BACKEND_IDS, ruleset.id_key(ident), None, present=False)
        self._idle.clear()

    def _lost(self, frontend: Frontend, rules: ServiceRules) -> None:
        if frontend.protocol == UDP:
            self.udp_frontends.add(frontend)
        if _sticky(rules, frontend):
            self.sticky_lost = True

    def _put(self, name: str, slot: bytes, data: bytes | None, *, present: bool) -> None:
        elements = self._elements.setdefault(name, {})
        self._before.setdefault((name, slot), (slot in elements, elements.get(slot)))
        if present:
            elements[slot] = data
        else:
            elements.pop(slot, None)

    def changes(self) -> list[Request]:
        """From what the kernel has to what is wanted, as one transaction; empty when nothing changed."""
        removed: dict[str, list[bytes]] = {}
        added: dict[str, list[tuple[bytes, bytes | None]]] = {}
        for (name, slot), (was_there, was) in self._before.items():
            elements = self._elements[name]
            is_there, now = slot in elements, elements.get(slot)
            if was_there and not (is_there and now == was):
                removed.setdefault(name, []).append(slot)
            if is_there and not (was_there and now == was):
                added.setdefault(name, []).append((slot, now))
        requests = [request for chain in sorted(self._new_chains) for request in ruleset.chain(chain)]
        for name in (*removed, *(n for n in added if n not in removed)):
            requests += ruleset.replace(name, removed.get(name, []), added.get(name, []))
        return requests

    def everything(self) -> list[Request]:
        """The whole table in place of whatever there is, as one transaction."""
        self._chains = {
            target
            for key, rules in self._rules.items()
            for frontend, target in rules.services.items()
            if isinstance(target, Chain) and self._owners.get(frontend) == key
        }
        self._new_chains.clear()
        requests = ruleset.base(self._cluster_cidr, self._service_cidr)
        requests += [request for chain in sorted(self._chains) for request in ruleset.chain(chain)]
        for name, elements in self._elements.items():
            requests += ruleset.replace(name, [], list(elements.items()))
        return requests

    def done(self) -> None:
        """The kernel has what `changes` or `everything` said."""
        self._before.clear()
        self._chains |= self._new_chains
        self._new_chains.clear()
        self.udp_frontends.clear()
        self.sticky_lost = False


def _sticky(rules: ServiceRules, frontend: Frontend) -> bool:
    target = rules.services.get(frontend)
    return isinstance(target, Chain) and target.sticky_s > 0
