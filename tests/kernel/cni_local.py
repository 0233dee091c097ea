"""A node's CNI set-up in throwaway directories and namespaces."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernel.net_local import Namespaces
from podling.cni.install import install
from podling.cni.plugins import skel
from podling.cni.plugins.find import MODULES, load_plugin
from podling.cni.types import Args, Result
from podling.linux.netlink import Netlink
from podling.linux.netns import open_netns, run_in_netns


def eventually(look: Callable[[], bool], *, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Node:
    """Directories as a node has them, and a namespace to be the host side."""

    def __init__(self, directory: Path, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self.netns = namespaces.make("node")
        self.conf_dir = directory / "net.d"
        self.bin_dir = directory / "bin"
        self.results = directory / "results"
        self.networks = directory / "networks"
        self.conf_dir.mkdir()
        install(self.bin_dir)

    def pod(self, name: str) -> Path:
        return self._namespaces.make(name)

    def ipam(self, *subnets: str, **more: Any) -> dict[str, Any]:
        ranges = [[{"subnet": subnet}] for subnet in subnets or ("10.244.1.0/24",)]
        return {"type": "host-local", "dataDir": str(self.networks), "ranges": ranges} | more

    def bridge(self, **options: Any) -> dict[str, Any]:
        conf = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0", "isGateway": True}
        return conf | {"ipam": self.ipam()} | options

    def conf(self, kind: str, **options: Any) -> dict[str, Any]:
        """A network of one plugin, with addresses of `ipam()` unless told otherwise."""
        return {"cniVersion": "1.0.0", "name": "net", "type": kind, "ipam": self.ipam()} | options

    def segment(self, name: str = "wan0", *addresses: str) -> Path:
        """A link of the node, up, to a neighbour: its namespace, where `eth0` has the addresses."""
        neighbour = self._namespaces.make(f"beyond-{name}")
        with Netlink(neighbour) as there, Netlink(self.netns) as nl:
            end = open_netns(neighbour)
            try:
                nl.link_add_veth(name, "eth0", peer_netns_fd=end)
            finally:
                os.close(end)
            for address in addresses:
                there.addr_add("eth0", ipaddress.ip_interface(address))
            there.link_set("eth0", up=True)
            nl.link_set(name, up=True)
        return neighbour

    def delete_twice(self, container: str, netns: Path | str, conf: dict[str, Any]) -> None:
        for _ in range(2):
            assert self.call("DEL", container, netns, conf) is None

    def write(self, name: str, conf: dict[str, Any]) -> None:
        (self.conf_dir / name).write_text(json.dumps(conf))

    def call(
        self, command: str, container: str, netns: Path | str, conf: dict[str, Any], *, args: str = ""
    ) -> Result | None:
        """One call of our plugin in this process, on the node."""
        if command in ("GC", "STATUS"):  # which only this version has
            conf = conf | {"cniVersion": "1.1.0"}
        plugin = load_plugin(MODULES[conf["type"]])
        call = Args(
            command=command,
            container_id=container,
            netns=str(netns),
            ifname="eth0",
            args=args,
            path=(str(self.bin_dir),),
            conf=conf,
        )
        return run_in_netns(self.netns, skel.run, plugin, call)

    def add(self, container: str, netns: Path, conf: dict[str, Any], *, args: str = "") -> Result:
        result = self.call("ADD", container, netns, conf, args=args)
        assert result is not None
        return result

    def execute(
        self,
        command: str,
        conf: dict[str, Any] | str,
        *,
        plugin: str = "bridge",
        directory: Path | None = None,
        **environment: str,
    ) -> tuple[int, dict[str, Any] | None]:
        """One call of an executable as any runtime makes it: its exit status and what it printed."""
        directory = directory or self.bin_dir
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", directory / plugin],
            input=conf if isinstance(conf, str) else json.dumps(conf),
            env={
                "PATH": os.environ["PATH"],
                "CNI_COMMAND": command,
                "CNI_PATH": str(directory),
                "CNI_IFNAME": "eth0",
                **{f"CNI_{key}": value for key, value in environment.items()},
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def reserved(self, network: str = "net") -> set[str]:
        directory = self.networks / network
        return {path.name for path in directory.iterdir()} - {"lock"} if directory.exists() else set()

    def addresses(self, netns: Path, link: str) -> set[str]:
        """Global ones."""
        with Netlink(netns) as nl:
            return {str(a.interface) for a in nl.addr_list(link) if a.scope == 0}

    def routes(self, netns: Path) -> set[str]:
        """Of the main table, without IPv6's own."""
        with Netlink(netns) as nl:
            return {
                f"{route.dst} via {route.gateway}" if route.gateway else str(route.dst)
                for route in nl.route_list()
                if not route.dst.is_link_local and not route.dst.is_multicast
            }
