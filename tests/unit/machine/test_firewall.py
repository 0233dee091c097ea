"""What nft lists of a machine whose firewall drops, or accepts, what is forwarded."""

from __future__ import annotations

import pytest

from podling.machine.firewall import drops_forwarded

LISTING = """
table ip filter {{
\tchain INPUT {{
\t\ttype filter hook input priority filter; policy drop;
\t}}
\tchain FORWARD {{
\t\ttype filter hook forward priority filter; policy {policy};
\t}}
\tchain DOCKER-USER {{
\t}}
}}
"""


@pytest.mark.parametrize(("policy", "drops"), [("drop", True), ("accept", False)])
def test_only_the_policy_for_forwarded_packets_counts(policy: str, drops: bool) -> None:
    assert drops_forwarded(LISTING.format(policy=policy)) is drops
