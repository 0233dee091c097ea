"""A machine that joins a cluster: a node sandbox on the cluster's switch in which nothing runs but what a
test starts. For agents with flags of their own.

    with BareNode(cluster, "kube-extra", 200) as node:
        with node.agent("--kubeconfig=/etc/kubernetes/kubelet.conf", ...):
            ...
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType

from podling.linux.processes import end
from podling.machine import credentials, node_cgroup, pki, record, switch
from podling.machine import node as node_sandbox
from podling.machine.config import NodeConfig
from podling.machine.node_config import write_node_config
from podling.machine.paths import ClusterPaths, NodePaths
from podling.pause.build import pause_path
from podling.testing.cluster import PodlingCluster, eventually

PODLING = (sys.executable, "-m", "podling.cli")
KUBECONFIG = "/etc/kubernetes/kubelet.conf"


class BareNode:
    def __init__(self, cluster: PodlingCluster, name: str, number: int) -> None:
        """`number` is the last byte of the node's address, above those the cluster's own nodes use."""
        self.cluster = cluster
        config = record.require(cluster.name).config
        self.config = NodeConfig(
            name=name,
            address=config.switch_network.network_address + number,
            prefix_length=config.switch_network.prefixlen,
            pod_cidr=IPv4Network(f"10.{244 + config.index}.{number}.0/24"),
        )
        # Not in the cluster's folder, nor on an overlay: containers' writable layers cannot lie on one.
        self.root = Path(tempfile.mkdtemp(prefix="podling-bare-", dir="/var/lib/podling"))
        self.paths = NodePaths(self.root)
        self.pid = 0
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> BareNode:
        try:
            argv = [sys.executable, __file__, "hold", self.cluster.name, str(self.root), self.config.name]
            argv += [str(self.config.number)]
            self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self._holder.stdout is not None
            self.pid = int(self._holder.stdout.readline())
        except BaseException:
            shutil.rmtree(self.root)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._holder is not None
        self._holder.communicate(timeout=30)
        self.cluster.delete("node", self.config.name)
        shutil.rmtree(self.root)
        assert self._holder.returncode == 0

    def argv(self, *argv: str, group: str = "exec") -> list[str]:
        """What runs `argv` on the node when it is run here."""
        where = [self.cluster.name, self.config.name, str(self.pid), group]
        return [sys.executable, __file__, "exec", *where, *argv]

    def run(self, *argv: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*argv),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def out(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def log(self) -> str:
        return (self.root / "agent.log").read_text()

    @contextmanager
    def agent(self, *flags: str) -> Iterator[None]:
        """`podling agent FLAGS` for as long as the block lasts. Its containers live on."""
        with open(self.root / "agent.log", "a") as log:
            started = subprocess.Popen(
                self.argv(*PODLING, "agent", *flags, group="agent"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            for pid in self.agent_pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait(timeout=30)

    def agent_pids(self) -> list[int]:
        """The agent's process, as this machine numbers it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                here = f"/podling/{self.cluster.name}/{self.config.name}/agent\n"
                if (
                    here in (entry / "cgroup").read_text()
                    and b"podling.cli" in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    def write_credentials(self) -> None:
        """What `podling up` gives each of its nodes."""
        config = record.require(self.cluster.name).config
        paths = ClusterPaths.of(self.cluster.name)
        ca = pki.load(paths.pki, "ca")
        user = f"system:node:{self.config.name}"
        client = pki.issue(ca, user, organizations=["system:nodes"])
        credentials.write_kubeconfig(self.paths.kubeconfig("kubelet"), config, user, ca, client)
        self.paths.pki.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.pki / "ca.crt", self.paths.pki / "ca.crt")
        names = [self.config.name]
        serving = pki.issue(
            ca, user, organizations=["system:nodes"], dns_names=names, addresses=[self.config.address]
        )
        serving.write(self.paths.bind("kubelet") / "pki", "kubelet")

    def wait_ready(self) -> None:
        def look() -> None:
            done = self.cluster.kubectl_run(
                "wait", f"node/{self.config.name}", "--for=condition=Ready", "--timeout=10s"
            )
            assert done.returncode == 0, done.stderr + self.log[-3000:]

        eventually(look, timeout_s=60)


def _hold(cluster: str, root: str, name: str, number: str) -> None:
    """Make the node, say its PID, and end it when standard input ends."""
    config = record.require(cluster).config
    node = NodeConfig(
        name=name,
        address=config.switch_network.network_address + int(number),
        prefix_length=config.switch_network.prefixlen,
        pod_cidr=IPv4Network(f"10.{244 + config.index}.{number}.0/24"),
    )
    paths = NodePaths(Path(root))
    write_node_config(config, node, paths)
    process = node_sandbox.start_node(
        node, cluster, paths, pause_path(), lambda pid: switch.plug_in(config, node, pid)
    )
    print(process.pid, flush=True)
    sys.stdin.read()
    end(process, grace_s=0)
    os.waitpid(process.pid, 0)
    node_cgroup.remove(f"{cluster}/{name}")


def _exec(cluster: str, node: str, pid: str, group: str, *argv: str) -> int:
    child = node_sandbox.fork_into(int(pid), cluster, node, group)
    if child == 0:
        try:
            os.chdir("/")
            path = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
            os.execvpe(argv[0], argv, {**os.environ, "PATH": path, "HOME": "/root"})
        finally:
            os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    sys.exit(_hold(*rest) if verb == "hold" else _exec(*rest))
