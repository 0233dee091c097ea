"""Plugins on configurations nobody would write: success or a CNI error, nothing else."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import Namespaces, namespaces
from podling.cni.types import CNIError

__all__ = ["namespaces"]

RUBBISH: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 40, 1.5, "", "x", "10.0.0.1/24", "::", "\0", "é" * 300, [], [None], ["x", 1], {},
    {"cni": 5}, {"cni": {"ips": ["x"], "sysctl": {"net.x": 1}, "mac": "zz"}}, {"portMappings": [{}]},
    {"portMappings": "x"}, {"bandwidth": {"ingressRate": "1"}}, {"ips": [1]}, [{"option": []}],
    {"ips": 5}, {"ipRanges": 5}, {"ipRanges": [[{"subnet": 5}]]}, [5],
    [[{"subnet": "10.0.0.0/8", "gateway": 7}]],
    [[{"subnet": "10.0.0.0/24"}]], "10.0.0.0/24", [{"minID": "x", "maxID": 5}],
)  # fmt: skip
LINK_KEYS = "master mode mtu mac linkInContainer ipam dns args runtimeConfig"
KEYS = {
    "bridge": "bridge isGateway isDefaultGateway forceAddress ipMasq ipMasqBackend hairpinMode promiscMode "
    "vlan vlanTrunk preserveDefaultVlan macspoofchk portIsolation disableContainerInterface mtu ipam dns "
    "runtimeConfig args",
    "ptp": "ipMasq ipMasqBackend mtu ipam dns",
    "macvlan": f"bcqueuelen {LINK_KEYS}",
    "ipvlan": LINK_KEYS,
    "vlan": f"vlanId {LINK_KEYS}",
    "dummy": LINK_KEYS,
    "tap": f"multiQueue owner group bridge {LINK_KEYS}",
    "host-device": "device hwaddr kernelpath pciBusID ipam dns runtimeConfig",
    "loopback": "ipam",
    "host-local": "ipam args runtimeConfig",
    "portmap": "snat masqAll markMasqBit externalSetMarkChain conditionsV4 conditionsV6 runtimeConfig",
    "tuning": "sysctl mac mtu promisc allmulti txQLen dataDir args runtimeConfig",
    "bandwidth": "ingressRate ingressBurst egressRate egressBurst shapedSubnets runtimeConfig",
    "firewall": "backend iptablesAdminChainName ingressPolicy firewalldZone",
    "sbr": "table gateways addSourceHints",
    "vrf": "vrfname table",
    "flannel": "subnetFile dataDir delegate ipam runtimeConfig",
    "sample": "anotherAwesomeArg myAwesomeFlag cniOutput",
    "static": "ipam args runtimeConfig",
    "dhcp": "ipam args",
}
IPAM_KEYS = {
    "static": "addresses routes dns",
    "dhcp": "request provide daemonSocketPath priority",
    "host-local": "subnet rangeStart rangeEnd gateway ranges routes resolvConf",
}
RESULTS: tuple[Any, ...] = (
    None,
    {"cniVersion": "1.0.0"},
    {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "interface": 7}]},
    {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 1}],
    },
    "x",
)


@pytest.mark.parametrize("plugin", KEYS)
def test_every_answer_is_one_of_the_protocol(
    plugin: str, tmp_path: Path, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # some rubbish is the name of a file
    node = Node(tmp_path, namespaces)
    pod = node.pod("pod")
    chance = random.Random(plugin)
    for _ in range(120):
        conf: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": plugin}
        for key in KEYS[plugin].split():
            if chance.random() < 0.5:
                conf[key] = chance.choice(RUBBISH)
        if "ipam" in KEYS[plugin] and chance.random() < 0.8:
            kind = plugin if plugin in IPAM_KEYS else chance.choice(list(IPAM_KEYS))
            keys = IPAM_KEYS[kind].split()
            conf["ipam"] = {key: chance.choice(RUBBISH) for key in keys if chance.random() < 0.4}
            conf["ipam"] |= {"type": kind, "dataDir": str(tmp_path / "networks")}
        conf["prevResult"] = chance.choice(RESULTS)
        command = chance.choice(("ADD", "DEL", "CHECK", "STATUS", "GC"))
        with contextlib.suppress(CNIError):
            node.call(command, "c1", pod, conf)
