"""What all main plugins owe whoever configures them, without a kernel: every wrong value is a CNIError."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from podling.cni.plugins import skel
from podling.cni.plugins.find import MODULES, load_plugin
from podling.cni.types import VERSIONS, Args, CNIError, Result

MAIN = sorted(name for name, module in MODULES.items() if ".main." in module)
OPTIONS = (
    *("ipam", "dns", "mtu", "mac", "master", "mode", "vlanId", "linkInContainer", "bcqueuelen", "bridge"),
    *("owner", "group", "multiQueue", "selinuxContext", "device", "hwaddr", "kernelpath", "pciBusID"),
    *("ipMasq", "ipMasqBackend", "isGateway", "hairpinMode", "vlan", "runtimeConfig", "args", "prevResult"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 1 << 70, 1.5, "", "x", "\0", "../..", "ä" * 20, [], [1], {}),
    *({"type": 5}, {"type": "../x"}, {"nameservers": 5}, {"nameservers": ["1.1.1.1"], "search": {"a": 1}}),
    *({"mac": 5}, {"mac": ["x"]}, {"cni": 5}, {"cni": {"mac": {}}}, {"deviceID": 5}, {"deviceID": "../x"}),
    *({"cniVersion": "1.0.0", "ips": 5}, {"cniVersion": "1.0.0", "interfaces": [5]}, {"cniVersion": "9"}),
)


def call(kind: str, command: str, **conf: Any) -> Result | None:
    args = Args(
        command=command,
        container_id="c1",
        netns="/none",  # so that nothing is ever made
        ifname="eth0",
        args="",
        path=(),
        conf={"cniVersion": "1.0.0", "name": "net", "type": kind} | conf,
    )
    return skel.run(load_plugin(MODULES[kind]), args)


@pytest.mark.parametrize("kind", MAIN)
def test_any_value_of_any_option_is_accepted_or_a_cni_error(kind: str):
    for option in OPTIONS:
        for value in VALUES:
            for command in ("ADD", "CHECK"):
                with pytest.raises(CNIError):
                    call(kind, command, **{option: value})
            with contextlib.suppress(CNIError):
                assert call(kind, "DEL", **{option: value}) is None


@pytest.mark.parametrize("kind", MAIN)
def test_del_needs_nothing_of_what_add_has_checked(kind: str):
    wrong = {"master": "", "mode": "none", "vlanId": -1, "mtu": -1, "mac": "x", "owner": -1}
    assert call(kind, "DEL", **wrong) is None


@pytest.mark.parametrize("kind", MAIN)
def test_versions_are_refused_or_taken(kind: str):
    for version in ("0.0.9", "1.2.0", "x"):
        with pytest.raises(CNIError, match="incompatible CNI versions"):
            call(kind, "ADD", cniVersion=version)
    for version in VERSIONS:
        with pytest.raises(CNIError) as info:
            call(kind, "ADD", cniVersion=version)
        assert "versions" not in info.value.message
