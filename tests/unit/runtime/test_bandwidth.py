from __future__ import annotations

import pytest

from podling.runtime.bandwidth import BURST_MIN, bandwidth_of

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"


def test_annotations_become_rates_and_bursts():
    assert bandwidth_of({"other": "1M"}) == {}
    assert bandwidth_of({INGRESS: "100M", EGRESS: "1k"}) == {
        "ingressRate": 100_000_000,
        "ingressBurst": 10_000_000,
        "egressRate": 1000,
        "egressBurst": BURST_MIN,
    }


@pytest.mark.parametrize(
    ("text", "words"), [("999", "unreasonably small"), ("2P", "unreasonably large"), ("x", "x")]
)
def test_what_makes_no_sense_is_refused(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        bandwidth_of({EGRESS: text})
