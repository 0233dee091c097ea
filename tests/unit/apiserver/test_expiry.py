"""Events go an hour after they were last written."""

from __future__ import annotations

from podling.apiserver.expiry import EventExpiry

EVENTS = "/api/v1/namespaces/default/events"


def event(name):
    return {"metadata": {"name": name}, "involvedObject": {"namespace": "default"}, "reason": "Test"}


async def test_an_event_goes_an_hour_after_it_was_last_written(api):
    expiry = EventExpiry(api.cluster)
    await api.created(EVENTS, event("old"))
    await api.created(EVENTS, event("repeated"))
    await expiry.expire(0)
    await api.patch(f"{EVENTS}/repeated", {"count": 2})
    await expiry.expire(3599)
    assert len((await api.get(EVENTS))[1]["items"]) == 2
    await expiry.expire(3600)
    assert [e["metadata"]["name"] for e in (await api.get(EVENTS))[1]["items"]] == ["repeated"]
    await expiry.expire(7199)
    assert (await api.get(EVENTS))[1]["items"] == []
