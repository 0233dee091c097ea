"""`@record`: frozen, slotted, keyword-only value classes for programs that live ten milliseconds.

To a type checker a record is a dataclass. At run time it is built by the few lines below instead of by
`dataclasses`, whose import alone (it pulls in `inspect`, `ast` and `re`) costs 20 ms, more than everything
else a CNI plugin does when it is run as a program. Defaults must be immutable. Used by `podling.linux` and
the CNI types; everyone else uses `dataclasses`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(kw_only_default=True, frozen_default=True)
    def record(cls: type[T], /) -> type[T]: ...

else:

    def record(cls: type, /) -> type:
        """Make `cls` a record of its annotated fields."""
        names = tuple(cls.__annotations__)
        defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        skipped = {*names, "__dict__", "__weakref__"}
        body = {key: value for key, value in cls.__dict__.items() if key not in skipped}
        body.setdefault("__repr__", _repr)
        body |= {
            "__slots__": names,
            "_defaults": defaults,
            "_names": frozenset(names),
            "__init__": _init,
            "__setattr__": _refuse,
            "__delattr__": _refuse,
            "__eq__": _eq,
            "__hash__": _hash,
            "__reduce__": _reduce,
        }
        return type(cls)(cls.__name__, cls.__bases__, body)


def replace(old: T, /, **changes: Any) -> T:
    """A copy of a record with some fields changed."""
    fields = {name: getattr(old, name) for name in type(old).__slots__}  # type: ignore[attr-defined]
    return type(old)(**(fields | changes))


def _init(self: Any, **fields: Any) -> None:
    cls = type(self)
    names, values, put = cls.__slots__, {**cls._defaults, **fields}, object.__setattr__
    if len(values) != len(names) or not values.keys() >= cls._names:
        _complain(cls, fields)
    for name in names:
        put(self, name, values[name])


def _complain(cls: Any, fields: dict[str, Any]) -> None:
    for name in cls.__slots__:
        if name not in fields and name not in cls._defaults:
            raise TypeError(f"{cls.__name__}() misses the keyword argument {name!r}")
    unknown = next(name for name in fields if name not in cls._names)
    raise TypeError(f"{cls.__name__}() takes no keyword argument {unknown!r}")


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} is read-only")


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in type(self).__slots__)


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).__slots__)
    return f"{type(self).__name__}({fields})"


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash((type(self), _values(self)))


def _rebuild(cls: type[T], fields: dict[str, Any]) -> T:
    return cls(**fields)


def _reduce(self: Any) -> tuple[Any, ...]:
    return _rebuild, (type(self), {name: getattr(self, name) for name in type(self).__slots__})
