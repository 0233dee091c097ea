"""Quantities: `100m`, `1.5`, `128Mi`, `1e3`, as Kubernetes reads, compares and writes them.

A quantity is a decimal number with a suffix (Kubernetes API reference, "Quantity"). It is kept to
nine decimals, rounded away from zero, and never exceeds 2**63-1. The server stores the canonical
text: no fraction, the largest suffix that needs none, in the family of suffixes it was written in.
Everything here is pure; recent answers are remembered, because the same few texts come back in
every pod.
"""

from __future__ import annotations

import re
from decimal import ROUND_UP, Context, Decimal
from functools import lru_cache
from typing import Final

MAX_QUANTITY: Final = 2**63 - 1
_NANO: Final = 10**9
_FORMAT: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_SUFFIX: Final = "unable to parse quantity's suffix"
_NUMERIC: Final = "unable to parse numeric part of quantity"

# The shape upstream's hand-written scanner accepts; the suffix is checked against the tables below.
_SHAPE: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_EXPONENT: Final = re.compile(r"[eE]([+-]?[0-9]+)", re.ASCII)
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_SUFFIX: Final = ("", *_BINARY)
_DECIMAL_SUFFIX: Final = {power: suffix for suffix, power in _DECIMAL.items()}
# Enough digits for any sum of quantities: 19 before the point, 9 after, and room to multiply.
_CONTEXT: Final = Context(prec=60, rounding=ROUND_UP)
# A text from the network may be a megabyte: that one is not worth keeping.
_LONGEST_REMEMBERED: Final = 40


class QuantityError(ValueError):
    """A text that is no quantity; the message is Kubernetes' own."""


def _parse(text: str) -> tuple[int, str]:
    """Return the value in units of 1e-9, and the family of its suffix: `binary`, `decimal`, `exponent`."""
    return _remembered(text) if len(text) <= _LONGEST_REMEMBERED else _scan(text)


def _scan(text: str) -> tuple[int, str]:
    match = _SHAPE.fullmatch(text)
    if not text or match is None:
        raise QuantityError(_FORMAT)
    sign, whole, fraction, suffix = match.groups()
    # A body may hold a number of a million digits; these suffice to round and to cap correctly.
    whole, fraction = whole.lstrip("0")[:64], (fraction or "").rstrip("0")
    if len(fraction) > 64:
        fraction = fraction[:64] + "1"
    scale, shift, family = 1, 0, "decimal"
    if suffix in _BINARY:
        scale, family = 1024 ** _BINARY[suffix], "binary"
    elif suffix in _DECIMAL:
        shift = _DECIMAL[suffix]
    elif exponent := _EXPONENT.fullmatch(suffix):
        # Beyond these every number is the largest or the smallest one: do not build a huge integer.
        shift, family = max(-400, min(400, int(exponent[1][:9]))), "exponent"
    else:
        raise QuantityError(_SUFFIX)
    if not match[2] and not match[3]:
        raise QuantityError(_NUMERIC)
    shift += 9 - len(fraction)
    number = int(whole + fraction or "0") * scale
    nano = number * 10**shift if shift >= 0 else -(-number // 10**-shift)
    nano = min(nano, MAX_QUANTITY * _NANO)
    return (-nano if sign == "-" else nano), family


_remembered = lru_cache(maxsize=4096)(_scan)


def parse_quantity(text: str) -> Decimal:
    """Return the exact value. Raises QuantityError with Kubernetes' message."""
    return Decimal(_parse(text)[0]).scaleb(-9, _CONTEXT)


def to_milli(text: str) -> int:
    """Return the value in thousandths, rounded away from zero: what CPU is counted in."""
    return _round_up(_parse(text)[0], 10**6)


def to_bytes(text: str) -> int:
    """Return the value in whole units, rounded away from zero: what memory and storage are counted in."""
    return _round_up(_parse(text)[0], _NANO)


def _round_up(nano: int, unit: int) -> int:
    return -(-nano // unit) if nano >= 0 else nano // unit


def canonicalize(text: str) -> str:
    """Return the text Kubernetes would store. Raises QuantityError."""
    nano, family = _parse(text)
    if family == "binary" and abs(nano) >= 1024 * _NANO and nano % _NANO == 0:
        return _with_factor(nano // _NANO)
    return _with_power(nano, exponent=family == "exponent")


@lru_cache(maxsize=4096)
def _with_factor(value: int) -> str:
    power = 0
    while value % 1024 == 0 and power < 6:
        value //= 1024
        power += 1
    return f"{value}{_BINARY_SUFFIX[power]}"


@lru_cache(maxsize=4096)
def _with_power(nano: int, *, exponent: bool = False) -> str:
    if nano == 0:
        return "0"
    power = -9
    while nano % 1000 == 0 and power < 18:
        nano //= 1000
        power += 3
    if exponent:
        return f"{nano}e{power}" if power else str(nano)
    return f"{nano}{_DECIMAL_SUFFIX[power]}"


def format_milli(milli: int) -> str:
    """Write thousandths as a canonical quantity: 1500 is `1500m`, 2000 is `2`."""
    return _with_power(milli * 10**6)


def format_bytes(value: int) -> str:
    """Write whole units as a canonical quantity with binary suffixes: 1048576 is `1Mi`."""
    return _with_factor(value) if abs(value) >= 1024 else _with_power(value * _NANO)


def format_decimal(value: Decimal) -> str:
    """Write a number as a canonical quantity with decimal suffixes."""
    return _with_power(int((value * _NANO).to_integral_value(ROUND_UP)))


def from_json(value: object) -> str:
    """Return the canonical text of a quantity as it stands in JSON: text, a number, or null (zero).

    Raises QuantityError for any other type and for text that is no quantity.
    """
    if isinstance(value, str):
        return canonicalize(value)
    if value is None:
        return "0"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return canonicalize(repr(value).replace("e+", "e"))
    raise QuantityError(_FORMAT)
