"""Chained and IPAM plugins on configurations nobody would write: success or a CNI error, nothing else."""

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
)  # fmt: skip
KEYS = {
    "portmap": "snat masqAll markMasqBit externalSetMarkChain conditionsV4 conditionsV6 runtimeConfig",
    "tuning": "sysctl mac mtu promisc allmulti txQLen dataDir args runtimeConfig",
    "bandwidth": "ingressRate ingressBurst egressRate egressBurst shapedSubnets runtimeConfig",
    "firewall": "backend iptablesAdminChainName ingressPolicy firewalldZone",
    "sbr": "table",
    "vrf": "vrfname table",
    "flannel": "subnetFile dataDir delegate ipam runtimeConfig",
    "sample": "anotherAwesomeArg myAwesomeFlag cniOutput",
    "static": "ipam args runtimeConfig",
    "dhcp": "ipam args",
}
IPAM_KEYS = ("addresses", "routes", "dns", "request", "provide", "daemonSocketPath", "priority")
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
            conf["ipam"] = {key: chance.choice(RUBBISH) for key in IPAM_KEYS if chance.random() < 0.4}
        conf["prevResult"] = chance.choice(RESULTS)
        command = chance.choice(("ADD", "DEL", "CHECK", "STATUS", "GC"))
        with contextlib.suppress(CNIError):
            node.call(command, "c1", pod, conf)
