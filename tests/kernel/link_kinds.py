"""What kinds of links the kernel under the tests can make, by asking it."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from kernel.cni_local import Node
from kernel.net_local import link_names
from podling.cni.types import KERNEL_REFUSED, NOT_AVAILABLE, CNIError
from podling.linux.netlink import Netlink


def missing(kind: str) -> bool:
    """Whether the kernel lacks the driver; without root nothing is asked, and nothing run."""
    if os.geteuid() != 0:
        return False
    with Netlink() as nl:
        return not nl.link_kind_known(kind)


def assert_the_driver_is_asked_for(node: Node, conf: dict[str, Any], words: str) -> None:
    """Where the kernel lacks the driver, ADD and STATUS say so in these words, and nothing is left.

    Where it has it, STATUS is content, and the other tests of the plugin run.
    """
    if not missing(conf["type"]):
        node.call("STATUS", "", "", conf)
        return
    pod = node.pod("without-the-driver")
    with pytest.raises(CNIError, match=re.escape(words)) as info:
        node.add("c1", pod, conf)
    assert info.value.code == KERNEL_REFUSED
    with pytest.raises(CNIError, match=re.escape(words)) as info:
        node.call("STATUS", "", "", conf)
    assert info.value.code == NOT_AVAILABLE
    call = {"plugin": conf["type"], "CONTAINERID": "c1", "NETNS": str(pod)}
    status, error = node.execute("ADD", conf, **call)
    assert status == 1
    assert error == {"cniVersion": conf["cniVersion"], "code": KERNEL_REFUSED, "msg": words}
    node.delete_twice("c1", pod, conf)
    for _ in range(2):
        assert node.execute("DEL", conf, **call) == (0, None)
    assert link_names(pod) == {"lo"}
    assert node.reserved() <= {"last_reserved_ip.0"}
