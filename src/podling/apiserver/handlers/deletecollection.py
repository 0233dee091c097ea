"""DELETE of a collection: every object that the selectors choose, each as if deleted alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from podling.apiserver import errors, options, registry, render, selection
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    if resource.namespaced and not info.namespace:
        raise errors.method_not_allowed()
    chosen = selection.parse(request, info, resource)
    wanted = replace(options.delete_options(request), uid="", resource_version="")
    page = await cluster.store.list(resource.prefix(info.namespace))
    entries = [entry for entry in page.entries if chosen.everything or chosen.matches(entry)]

    async def delete(name: str) -> None:
        try:
            await registry.delete(cluster, registry.Target(resource, info.namespace, name), wanted)
        except errors.APIError as err:
            if err.code != 404:
                raise

    # All at once: their writes share commits.
    results = await asyncio.gather(
        *(delete(entry.key.rpartition("/")[2]) for entry in entries), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return render.collection(resource, entries, {"resourceVersion": str(page.revision)}, accept, request)
