import pytest

from podling.api.intstr import percent, scaled


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [(3, 3, 3), ("25%", 2, 1), ("0%", 0, 0), ("100%", 5, 5), (None, 0, 0), ("x", 0, 0)],
)
def test_shares_round_as_asked(value, up, down):
    assert scaled(value, 5, round_up=True) == up
    assert scaled(value, 5, round_up=False) == down


def test_only_digits_and_a_sign_are_a_percentage():
    assert percent("25%") == 25
    for text in ("25", "-1%", " 25%", "2.5%", 25, None):
        assert percent(text) is None
