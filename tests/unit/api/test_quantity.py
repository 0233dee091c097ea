from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podling.api.quantity import (
    MAX_QUANTITY,
    QuantityError,
    canonicalize,
    format_bytes,
    format_milli,
    from_json,
    parse_quantity,
    to_bytes,
    to_milli,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"),
        ("0Mi", "0"),
        ("-0", "0"),
        ("1000m", "1"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("5.", "5"),
        ("+1", "1"),
        ("1500m", "1500m"),
        ("100m", "100m"),
        ("1024Mi", "1Gi"),
        ("1Gi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("1000", "1k"),
        ("128974848", "128974848"),
        ("129M", "129M"),
        ("129e6", "129e6"),
        ("1E3", "1e3"),
        ("1e4", "10e3"),
        ("1E", "1E"),
        ("0.1Ki", "102400m"),
        ("100Ki", "100Ki"),
        ("1.1Ki", "1126400m"),
        ("500Ki", "500Ki"),
        ("0.0000000001", "1n"),
        ("-1.5", "-1500m"),
        ("1n", "1n"),
        ("1000000n", "1m"),
        ("10E", "9223372036854775807"),
        ("1e400", "9223372036854775807"),
        ("00012", "12"),
    ],
)
def test_canonical_text(text, canonical):
    assert canonicalize(text) == canonical
    assert canonicalize(canonical) == canonical


@pytest.mark.parametrize("text", ["", "abc", "1x", "1 Gi", " 1", "1..2", "1,5", "0x10", "1Gi ", "1e3.5", "١"])
def test_text_of_the_wrong_shape(text):
    with pytest.raises(QuantityError, match="quantities must match the regular expression"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["1kk", "1mi", "1ki", "1m5", "1Gi5", "1e+", "1EE"])
def test_unknown_suffix(text):
    with pytest.raises(QuantityError, match="unable to parse quantity's suffix"):
        parse_quantity(text)


@pytest.mark.parametrize("text", [".", "m", "-", "+Ki"])
def test_no_number(text):
    with pytest.raises(QuantityError, match="unable to parse numeric part of quantity"):
        parse_quantity(text)


def test_numbers_in_json_are_quantities():
    assert from_json(2) == "2"
    assert from_json(0.1) == "100m"
    assert from_json(1e21) == "9223372036854775807"
    assert from_json(None) == "0"
    for wrong in (True, [], {}):
        with pytest.raises(QuantityError):
            from_json(wrong)


def test_units_round_away_from_zero():
    assert to_milli("0.0001") == 1
    assert to_milli("250m") == 250
    assert to_bytes("1.5") == 2
    assert to_bytes("-1.5") == -2
    assert to_bytes("64Mi") == 64 * 2**20
    assert format_milli(1500) == "1500m"
    assert format_milli(4000) == "4"
    assert format_bytes(64 * 2**20) == "64Mi"
    assert format_bytes(1000) == "1k"


def test_a_huge_number_is_read_in_no_time():
    assert to_bytes("9" * 1_000_000) == MAX_QUANTITY
    assert parse_quantity("0." + "0" * 1_000_000 + "1") == Decimal("1e-9")


_NUMBERS = st.decimals(min_value=-(10**9), max_value=10**9, places=9, allow_nan=False, allow_infinity=False)


@given(_NUMBERS)
def test_a_decimal_survives_exactly(number):
    text = canonicalize(format(number, "f"))
    assert parse_quantity(text) == number
    assert "." not in text


@given(st.integers(0, 10**6), st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "m", "u", "n", "e3", "E2"]))
def test_canonical_text_keeps_the_value_and_is_stable(number, suffix):
    text = f"{number}{suffix}"
    canonical = canonicalize(text)
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonicalize(canonical) == canonical


@given(st.text(alphabet="0123456789.+-eEinumkKMGTPx ", max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        parse_quantity(text)
    except QuantityError:
        return
    canonicalize(text)
