from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from podling.cni.plugins import skel
from podling.cni.plugins.main import bridge_conf, masquerade
from podling.cni.types import (
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    Args,
    CNIError,
    Result,
)
from podling.linux.record import replace

GOOD = Args(
    command="ADD",
    container_id="c1",
    netns="/run/netns/x",
    ifname="eth0",
    args="",
    path=(),
    conf={"cniVersion": "1.0.0", "name": "net"},
)


@dataclass
class Wrong:
    changes: dict[str, Any]
    code: int
    words: str


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong({"container_id": ""}, INVALID_ENVIRONMENT, "[CNI_CONTAINERID] missing"),
        Wrong({"container_id": "../x"}, INVALID_ENVIRONMENT, "invalid CNI_CONTAINERID"),
        Wrong({"container_id": "a b"}, INVALID_ENVIRONMENT, "invalid CNI_CONTAINERID"),
        Wrong({"netns": "", "ifname": ""}, INVALID_ENVIRONMENT, "[CNI_NETNS,CNI_IFNAME] missing"),
        Wrong({"ifname": "x" * 16}, INVALID_ENVIRONMENT, "longer than 15 bytes"),
        Wrong({"ifname": "a/b"}, INVALID_ENVIRONMENT, "not a valid interface name"),
        Wrong({"ifname": ".."}, INVALID_ENVIRONMENT, "not a valid interface name"),
        Wrong({"conf": {"cniVersion": "1.0.0", "name": "../x"}}, INVALID_CONFIG, "invalid network name"),
        Wrong({"conf": {"cniVersion": "1.0.0"}}, INVALID_CONFIG, "invalid network name"),
        Wrong({"conf": {"cniVersion": "3.0.0", "name": "x"}}, INCOMPATIBLE_VERSION, "incompatible CNI"),
    ],
    ids=lambda wrong: wrong.words,
)
def test_calls_the_spec_forbids_are_refused(wrong: Wrong):
    with pytest.raises(CNIError) as info:
        skel.check_args(replace(GOOD, **wrong.changes))
    assert info.value.code == wrong.code
    assert wrong.words in info.value.message


def test_del_needs_no_namespace():
    skel.check_args(replace(GOOD, command="DEL", netns=""))


def test_errors_of_kernel_and_disk_get_codes():
    def fail(args: Args) -> Result:
        raise PermissionError(13, "Permission denied", "/x")

    plugin = skel.Plugin(name="p", add=fail, delete=lambda args: None)
    with pytest.raises(CNIError, match=r"p ADD: .*Permission denied: '/x'") as info:
        skel.run(plugin, GOOD)
    assert info.value.code == IO_FAILURE


def bridge(**conf: Any) -> bridge_conf.BridgeConf:
    return bridge_conf.parse(replace(GOOD, conf=GOOD.conf | conf))


def test_bridge_defaults_and_implied_options():
    assert bridge().bridge == "cni0"
    conf = bridge(bridge="dind0", isDefaultGateway=True, ipam={"type": "host-local"}, unknown=1)
    assert conf.is_gateway
    assert (conf.bridge, conf.ipam) == ("dind0", "host-local")


def test_all_faults_of_a_bridge_configuration_are_reported_at_once():
    with pytest.raises(CNIError) as info:
        bridge(hairpinMode=True, promiscMode=True, vlan=5000, mtu="big", isGateway="yes")
    assert info.value.code == INVALID_CONFIG
    for words in (
        "cannot set hairpin mode and promiscuous mode at the same time",
        "invalid VLAN ID 5000 (must be between 0 and 4094)",
        "mtu: must be a number, not 'big'",
        "isGateway: must be true or false, not 'yes'",
    ):
        assert words in info.value.message


def test_the_capability_mac_wins():
    conf = GOOD.conf | {"runtimeConfig": {"mac": "02:00:00:00:00:03"}, "args": {"cni": {"mac": "02::2"}}}
    args = replace(GOOD, args="MAC=02:00:00:00:00:01", conf=conf)
    assert bridge_conf.parse(args).mac == "02:00:00:00:00:03"
    assert bridge_conf.parse(replace(args, conf=GOOD.conf)).mac == "02:00:00:00:00:01"


def test_masquerade_rules_are_marked_with_network_interface_and_container():
    import ipaddress

    text = masquerade.compute_rules(
        "net", "eth0", "c1", [ipaddress.ip_interface("10.1.2.3/24"), ipaddress.ip_interface("fd00::3/64")]
    )
    four, six = text.splitlines()
    assert "ip saddr == 10.1.2.3 ip daddr != 10.1.2.0/24 masquerade comment" in four
    assert "ip6 saddr == fd00::3 ip6 daddr != fd00::/64 masquerade comment" in six
    assert masquerade.comment("net", "eth0", "c1").endswith(", net: net, if: eth0, id: c1")
    assert masquerade.comment("net", "eth0", "c1")[:33] != masquerade.comment("net", "eth0", "c2")[:33]
    assert len(masquerade.comment("n" * 90, "eth0", "c" * 90)) < 128
