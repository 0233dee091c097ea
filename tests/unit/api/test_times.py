from datetime import UTC, datetime

import pytest

from podling.api.times import format_micro, format_time, human_duration, now_micro, now_rfc3339, parse_time


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "<invalid>"), (-1.5, "0s"), (0, "0s"), (0.9, "0s"), (1, "1s"), (119, "119s"), (120, "2m"),
        (125, "2m5s"), (599, "9m59s"), (600, "10m"), (10799, "179m"), (10800, "3h"),
        (3 * 3600 + 1860, "3h31m"),
        (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (49 * 3600, "2d1h"), (8 * 86400, "8d"),
        (729 * 86400, "729d"), (730 * 86400, "2y"), (731 * 86400, "2y1d"), (8 * 365 * 86400, "8y"),
    ],
)  # fmt: skip
def test_durations_as_kubectl_shows_them(seconds, shown):
    assert human_duration(seconds) == shown


def test_times_round_trip():
    moment = datetime(2025, 1, 31, 12, 0, 5, 123456, tzinfo=UTC)
    assert format_time(moment) == "2025-01-31T12:00:05Z"
    assert format_micro(moment) == "2025-01-31T12:00:05.123456Z"
    assert parse_time(format_micro(moment)) == moment
    assert parse_time("2025-01-31T14:00:05+02:00") == parse_time("2025-01-31T12:00:05Z")
    assert parse_time("2025-01-31T12:00:05.123456789Z") == moment
    assert parse_time(now_rfc3339()) <= parse_time(now_micro())


@pytest.mark.parametrize("wrong", ["", "today", "2025-01-31", "2025-01-31T12:00:00"])
def test_other_texts_are_no_times(wrong):
    with pytest.raises(ValueError, match=r"."):
        parse_time(wrong)
