"""What the DNS server counts, shown under CoreDNS' names (its plugins `prometheus`, `cache` and `forward`).

`zone` is always `.`, as with the one server block of kubeadm's CoreDNS; `plugin` says where an answer is
from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from itertools import accumulate
from typing import TYPE_CHECKING

from aiohttp import web

from podling.api.prometheus import CONTENT_TYPE, Family, page
from podling.network.dns.message import Code

if TYPE_CHECKING:
    from podling.network.dns.forward import Forwarder

METRICS_PORT = 9153
"""CoreDNS' own."""
BOUNDS_S = tuple(0.00025 * 2**n for n in range(16))
"""CoreDNS' buckets: a quarter of a millisecond to 8 seconds."""
_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    35: "NAPTR",
    43: "DS",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    50: "NSEC3",
    64: "SVCB",
    65: "HTTPS",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
}


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def show(self, family: Family, **labels: str) -> None:
        below = list(accumulate(self.counts))
        family.add_histogram(zip(BOUNDS_S, below, strict=False), self.sum_s, below[-1], **labels)


class Counts:
    """Of answers given. `server` as CoreDNS writes it: `dns://10.192.0.3:10053`."""

    def __init__(self, server: str) -> None:
        self._labels = {"server": server, "zone": ".", "view": ""}
        self._requests: Counter[tuple[bool, int]] = Counter()
        self._responses: Counter[tuple[int, str]] = Counter()
        self._durations = Histogram()
        self.rejected = 0
        """Refused because too many questions were under way upstream."""

    def add(self, kind: int, code: int, plugin: str, seconds: float, *, tcp: bool) -> None:
        self._requests[tcp, kind] += 1
        self._responses[code, plugin] += 1
        self._durations.add(seconds)

    def families(self, forwarder: Forwarder) -> Iterable[Family]:
        yield from self._dns()
        yield from self._cache(forwarder)
        yield from self._forward(forwarder)

    def _dns(self) -> Iterable[Family]:
        requests = Family(
            "coredns_dns_requests_total",
            "counter",
            "Counter of DNS requests made per zone, protocol and family.",
        )
        for (tcp, kind), count in sorted(self._requests.items()):
            about = {"proto": "tcp" if tcp else "udp", "family": "1", "type": _TYPES.get(kind, "other")}
            requests.add(count, **self._labels, **about)
        responses = Family("coredns_dns_responses_total", "counter", "Counter of response status codes.")
        for (code, plugin), count in sorted(self._responses.items()):
            responses.add(count, **self._labels, rcode=_code_name(code), plugin=plugin)
        durations = Family(
            "coredns_dns_request_duration_seconds",
            "histogram",
            "Histogram of the time (in seconds) each request took per zone.",
        )
        self._durations.show(durations, **self._labels)
        return [requests, responses, durations]

    def _cache(self, forwarder: Forwarder) -> Iterable[Family]:
        cache = forwarder.cache
        labels: Mapping[str, str] = {"server": self._labels["server"], "zones": ".", "view": ""}
        entries = Family("coredns_cache_entries", "gauge", "The number of elements in the cache.")
        hits = Family("coredns_cache_hits_total", "counter", "The count of cache hits.")
        evictions = Family("coredns_cache_evictions_total", "counter", "The count of cache evictions.")
        for kind, shelf in (("success", cache.success), ("denial", cache.denial)):
            entries.add(len(shelf.entries), **labels, type=kind)
            hits.add(shelf.hits, **labels, type=kind)
            evictions.add(shelf.evictions, **labels, type=kind)
        requests = Family("coredns_cache_requests_total", "counter", "The count of cache requests.")
        requests.add(cache.success.hits + cache.denial.hits + forwarder.misses, **labels)
        misses = Family("coredns_cache_misses_total", "counter", "The count of cache misses.")
        misses.add(forwarder.misses, **labels)
        return [entries, hits, evictions, requests, misses]

    def _forward(self, forwarder: Forwarder) -> Iterable[Family]:
        upstream = forwarder.upstream
        requests = Family(
            "coredns_forward_requests_total", "counter", "Counter of requests made per upstream."
        )
        for server, count in sorted(upstream.requests.items()):
            requests.add(count, to=f"{server}:53")
        responses = Family(
            "coredns_forward_responses_total", "counter", "Counter of responses received per upstream."
        )
        durations = Family(
            "coredns_forward_request_duration_seconds",
            "histogram",
            "Histogram of the time each request took.",
        )
        for (server, code), histogram in sorted(upstream.durations.items()):
            labels = {"to": f"{server}:53", "rcode": _code_name(code)}
            responses.add(sum(histogram.counts), **labels)
            histogram.show(durations, **labels)
        rejects = Family(
            "coredns_forward_max_concurrent_rejects_total",
            "counter",
            "Counter of the number of queries rejected because the concurrent queries were at maximum.",
        )
        rejects.add(self.rejected)
        return [requests, responses, durations, rejects]


async def serve_metrics(
    stack: AsyncExitStack, counts: Counts, forwarder: Forwarder, address: str, port: int
) -> None:
    """GET /metrics, until the stack is closed. `OSError` when the port is taken."""

    async def metrics(_: web.Request) -> web.Response:
        text = page(counts.families(forwarder))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, address, port).start()


def _code_name(code: int) -> str:
    try:
        return Code(code).name
    except ValueError:
        return str(code)
