"""Which objects of a collection a list, watch or deletecollection is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from podling.api.selectors import (
    FieldSelector,
    Selector,
    SelectorError,
    parse_field_selector,
    parse_label_selector,
)
from podling.apiserver import errors
from podling.apiserver.objects import Object, view
from podling.apiserver.request import Request
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Resource
from podling.store.interface import Entry, Event


@dataclass(frozen=True, slots=True)
class Selection:
    labels: Selector
    fields: FieldSelector

    @property
    def everything(self) -> bool:
        return self.labels.empty and self.fields.empty

    def matches(self, entry: Entry) -> bool:
        seen = view(entry)
        if not self.fields.empty and not self.fields.matches(cast("Object", seen)):
            return False
        return self.labels.empty or self.labels.matches(seen["metadata"].get("labels"))

    def classify(self, event: Event) -> str:
        """ADDED, MODIFIED or DELETED as this selection sees it; empty when it does not.

        An object that comes to match is added, one that ceases to match is deleted.
        """
        before, after = event.previous, event.entry
        is_in = after is not None and (self.everything or self.matches(after))
        was_in = before is not None and (self.everything or self.matches(before))
        if is_in:
            return "MODIFIED" if was_in else "ADDED"
        return "DELETED" if was_in else ""


def parse(request: Request, info: RequestInfo, resource: Resource) -> Selection:
    """Read the selectors of a request; a name in the path selects one object. Raises APIError 400."""
    labels, fields = request.query.get("labelSelector"), request.query.get("fieldSelector")
    try:
        label_selector = parse_label_selector(labels)
    except SelectorError as err:
        raise errors.bad_request(str(err)) from err
    if info.name:
        fields = ",".join(filter(None, (fields, f"metadata.name={info.name}")))
    try:
        return Selection(label_selector, parse_field_selector(fields, resource.kind))
    except SelectorError as err:
        # kubectl itself puts `Unable to find ... that match ...` in front.
        raise errors.bad_request(str(err)) from err
