from __future__ import annotations

import ipaddress

from podling.cni.plugins.main import masquerade_iptables


def test_a_chain_of_its_own_is_entered_by_address():
    address = ipaddress.ip_interface("10.244.1.2/24")
    note = r'-m comment --comment "name: \"net\" id: \"c1\""'
    chain = "CNI-623e1c388032b20529218ecc"  # the reference's name for network "net", container "c1"
    assert masquerade_iptables.compute_rules("net", "c1", [address]) == [
        f"{chain} -d 10.244.1.0/24 {note} -j ACCEPT",
        f"{chain} ! -d 224.0.0.0/4 {note} -j MASQUERADE",
        f"POSTROUTING -s 10.244.1.2 {note} -j {chain}",
    ]
