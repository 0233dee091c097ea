from __future__ import annotations

import ipaddress

from podling.cni.plugins.main import masquerade_iptables


def test_a_transaction_makes_a_chain_and_enters_it_by_address():
    address = ipaddress.ip_interface("10.244.1.2/24")
    stale = "-A POSTROUTING -s 10.244.1.9/32 -j CNI-623e1c388032b20529218ecc"
    text = masquerade_iptables.compute_rules("net", "c1", [address], replaced=[stale])
    note = r'-m comment --comment "name: \"net\" id: \"c1\""'
    assert text.splitlines() == [
        "*nat",
        ":CNI-623e1c388032b20529218ecc - [0:0]",  # the reference's name for network "net", container "c1"
        "-D POSTROUTING -s 10.244.1.9/32 -j CNI-623e1c388032b20529218ecc",
        f"-A CNI-623e1c388032b20529218ecc -d 10.244.1.0/24 {note} -j ACCEPT",
        f"-A CNI-623e1c388032b20529218ecc ! -d 224.0.0.0/4 {note} -j MASQUERADE",
        f"-A POSTROUTING -s 10.244.1.2 {note} -j CNI-623e1c388032b20529218ecc",
        "COMMIT",
    ]
