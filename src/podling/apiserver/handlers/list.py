"""GET of a collection: all of it, or page by page at one revision."""

from __future__ import annotations

from podling.apiserver import errors, render, selection, versions
from podling.apiserver.cluster import Cluster
from podling.apiserver.negotiation import accepted
from podling.apiserver.objects import Object
from podling.apiserver.request import Answer, Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.apiserver.selection import Selection
from podling.store.interface import CompactedError, Entry, FutureRevisionError, Page

PAGE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You can start a new list without the continue parameter, or use the continue token in this response "
    "to retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the first "
    "chunk was returned and now may show up in the list."
)


async def handle(cluster: Cluster, request: Request, info: RequestInfo, resource: Resource) -> Answer:
    accept = accepted(request.accept)
    chosen = selection.parse(request, info, resource)
    position = versions.list_position(request)
    if position.at_least > cluster.store.revision:
        raise errors.future_version(position.at_least, cluster.store.revision)
    limit = max(request.query.integer("limit") or 0, 0)
    prefix = resource.prefix(info.namespace)
    page = await _page(cluster, prefix, position, limit if chosen.everything else 0)
    entries, remaining = _select(page, chosen, limit)
    metadata: Object = {"resourceVersion": str(page.revision)}
    if remaining:
        metadata["continue"] = versions.continue_token(page.revision, entries[-1].key[len(prefix) :])
        if chosen.everything:
            metadata["remainingItemCount"] = page.remaining
    return render.collection(resource, entries, metadata, accept, request)


async def _page(cluster: Cluster, prefix: str, position: versions.ListPosition, limit: int) -> Page:
    try:
        return await cluster.store.list(
            prefix, after=prefix + position.after, limit=limit, revision=position.revision
        )
    except CompactedError as err:
        raise errors.expired(
            PAGE_TOO_OLD if position.after else errors.TOO_OLD.format(err.requested, err.oldest)
        ) from err
    except FutureRevisionError as err:
        raise errors.future_version(err.requested, err.current) from err


def _select(page: Page, chosen: Selection, limit: int) -> tuple[list[Entry], bool]:
    """The entries of this answer, and whether more may follow."""
    if chosen.everything:
        return page.entries, page.remaining > 0
    found = [entry for entry in page.entries if chosen.matches(entry)]
    if limit and len(found) > limit:
        return found[:limit], True
    return found, False
