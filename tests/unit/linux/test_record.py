from __future__ import annotations

import pickle

import pytest

from podling.linux.record import record, replace


@record
class Point:
    """A point."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


def test_fields_defaults_and_methods():
    point = Point(x=3)
    assert (point.x, point.y, point.sum) == (3, 0, 3)
    assert repr(point) == "Point(x=3, y=0)"
    assert Point.__doc__ == "A point."


def test_equal_by_value_and_hashable():
    assert Point(x=1) == Point(x=1, y=0)
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != "Point(x=1, y=0)"
    assert len({Point(x=1), Point(x=1)}) == 1


def test_frozen():
    with pytest.raises(AttributeError, match="read-only"):
        Point(x=1).x = 2
    with pytest.raises(AttributeError):
        Point(x=1).z = 2


def test_missing_and_unknown_arguments_are_named():
    with pytest.raises(TypeError, match="'x'"):
        Point()
    with pytest.raises(TypeError, match="'z'"):
        Point(x=1, z=2)


def test_replace_and_pickle():
    assert replace(Point(x=1), y=5) == Point(x=1, y=5)
    assert pickle.loads(pickle.dumps(Point(x=1, y=2))) == Point(x=1, y=2)
