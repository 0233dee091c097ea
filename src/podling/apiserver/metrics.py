"""Counters of requests, in the text format of Prometheus, under upstream's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from podling.apiserver.requestinfo import RequestInfo


class Metrics:
    def __init__(self, revision: Callable[[], int]) -> None:
        self._revision = revision
        self._requests: Counter[tuple[str, str, str, str]] = Counter()

    def count(self, info: RequestInfo, method: str) -> None:
        self._requests[info.verb, info.group, info.resource, info.subresource] += 1

    def text(self) -> bytes:
        lines = [
            "# HELP apiserver_request_total Requests by verb and resource.",
            "# TYPE apiserver_request_total counter",
        ]
        for (verb, group, resource, subresource), count in sorted(self._requests.items()):
            labels = (
                f'group="{group}",resource="{resource}",subresource="{subresource}",verb="{verb.upper()}"'
            )
            lines.append(f"apiserver_request_total{{{labels}}} {count}")
        lines += [
            "# HELP podling_store_revision Revision of the newest durable write.",
            "# TYPE podling_store_revision gauge",
            f"podling_store_revision {self._revision()}",
        ]
        return ("\n".join(lines) + "\n").encode()
