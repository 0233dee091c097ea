"""The host-gw backend: plain routes to the other nodes' subnets by their public addresses, no tunnel.

Nodes must be neighbours on one network. One that is not has no route: that is said once, and tried again when
addresses or links change.
"""

from __future__ import annotations

from podling.linux.netlink import Netlink, Route
from podling.network.flannel.backend import Built, Family, Wanted
from podling.network.flannel.lease import Lease
from podling.network.flannel.net_conf import BackendType
from podling.network.route_table import RTPROT_PODLING


class HostGwBackend:
    def build(self, nl: Netlink, family: Family) -> Built:
        lease = Lease(subnet=family.subnet, public_ip=family.local, backend=BackendType.HOST_GW)
        return Built(lease=lease, wanted=compute_wanted(family), mtu=family.underlay.mtu)

    def close(self) -> None:
        """There is nothing of it but routes."""


def compute_wanted(family: Family) -> Wanted:
    return Wanted(
        routes=tuple(
            Route(
                dst=remote.subnet,
                gateway=remote.public_ip,
                oif=family.underlay.index,
                protocol=RTPROT_PODLING,
            )
            for remote in family.remotes
        )
    )
