from __future__ import annotations

from podling.linux.nft import NFTRule, parse_rules

LISTING = """\
table inet t { # handle 4
	chain masq { # handle 1
		ip saddr 10.1.1.2 masquerade comment "abc, id: "x" # handle 6
		ip saddr 10.1.1.3 accept # handle 7
	}

	chain postrouting { # handle 2
		type nat hook postrouting priority srcnat; policy accept;
		goto masq # handle 5
	}
}
"""


def test_rules_are_found_with_handle_and_comment():
    assert parse_rules(LISTING) == [
        NFTRule(handle=6, text="ip saddr 10.1.1.2 masquerade", comment='abc, id: "x'),
        NFTRule(handle=7, text="ip saddr 10.1.1.3 accept", comment=""),
        NFTRule(handle=5, text="goto masq", comment=""),
    ]


def test_an_empty_listing_has_no_rules():
    assert parse_rules("") == []
