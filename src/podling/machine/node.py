"""A node is a sandbox: our pause program as PID 1 of its own namespaces, with a private view of the files.

`start_node` forks PID 1; what it does between fork and exec is in `_become_node`, top to bottom. The
network card is put in by the parent (`switch.plug_in`) while the child waits: a veth's far end must be
named by the namespace it goes to. `fork_into` is how every later process gets in.

Everything lives in the namespaces, so killing PID 1 takes with it processes, mounts, netns and links.
What is left for `remove_node_cgroups` are empty cgroups.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from podling.linux import syscalls as sc
from podling.linux.processes import ProcessRef, reference
from podling.machine import node_cgroup, node_files
from podling.machine.config import NodeConfig
from podling.machine.features import MissingFeatureError
from podling.machine.paths import NodePaths

NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")
"""The order to join them in: mnt last, because /proc is needed until then."""


class NodeError(Exception):
    """A node that could not be made; the text names it and the step that failed."""


def start_node(
    node: NodeConfig, cluster: str, paths: NodePaths, pause: Path, plug_in: Callable[[int], None]
) -> ProcessRef:
    """Make the sandbox and return its PID 1, a child of the caller.

    `plug_in(pid)` gives the new network namespace its eth0. Raises `NodeError`. The caller must have one
    thread only: this forks, and moves the caller's future children between PID namespaces for a moment.
    """
    node_files.prepare(node, paths)
    to_parent, to_child = os.pipe(), os.pipe()
    with _children_in_pid_namespace(lambda: sc.unshare(sc.CLONE_NEWPID)):
        pid = os.fork()
    if pid == 0:
        _child(node, cluster, paths, pause, to_parent=to_parent[1], from_parent=to_child[0])
    os.close(to_parent[1])
    os.close(to_child[0])
    try:
        with os.fdopen(to_parent[0], "rb") as status:
            _expect(node, status.readline(), b"unshared\n")
            plug_in(pid)
            os.write(to_child[1], b"\n")
            # Closed by exec: until then anything written is an error.
            _expect(node, status.read(), b"")
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(to_child[1])
    process = reference(pid)
    if process is None:
        raise NodeError(f"node {node.name}: its PID 1 ended at once")
    return process


def fork_into(pid: int, cluster: str, node: str, group: str) -> int:
    """`os.fork` whose child is inside the node: every namespace, and its cgroup `group`.

    The child is a direct child of the caller although it lives in another PID namespace.
    """
    fds = {ns: os.open(f"/proc/{pid}/ns/{ns}", os.O_RDONLY | os.O_CLOEXEC) for ns in NAMESPACES}
    try:
        with _children_in_pid_namespace(lambda: sc.setns(fds["pid"])):
            child = os.fork()
        if child == 0:
            node_cgroup.join(cluster, node, group)
            for name, fd in fds.items():
                if name != "pid":
                    sc.setns(fd)
        return child
    finally:
        for fd in fds.values():
            os.close(fd)


def _expect(node: NodeConfig, got: bytes, wanted: bytes) -> None:
    if got != wanted:
        raise NodeError(
            f"node {node.name}: {got.decode(errors='replace').strip() or 'its PID 1 ended early'}"
        )


@contextmanager
def _children_in_pid_namespace(change: Callable[[], None]) -> Iterator[None]:
    """Let `change` choose the PID namespace of the children forked in the block, and take that back after.

    unshare(CLONE_NEWPID) and setns move only future children (`man 7 pid_namespaces`).
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    caller = os.getpid()
    try:
        change()
        try:
            yield
        finally:
            if os.getpid() == caller:
                sc.setns(own)
    finally:
        os.close(own)


def _child(
    node: NodeConfig, cluster: str, paths: NodePaths, pause: Path, *, to_parent: int, from_parent: int
) -> None:
    try:
        os.setsid()
        _become_node(node, cluster, paths, lambda: _wait_for_network(to_parent, from_parent))
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0)
        os.dup2(0, 1)
        os.dup2(0, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.set_inheritable(to_parent, False)
        os.execve(pause, ["/pause"], {})
    except MissingFeatureError as err:
        os.write(to_parent, str(err).encode())
    except BaseException as err:
        os.write(to_parent, f"{type(err).__name__}: {err}".encode())
    finally:
        os._exit(1)


def _wait_for_network(to_parent: int, from_parent: int) -> None:
    os.write(to_parent, b"unshared\n")
    if not os.read(from_parent, 1):
        raise NodeError("the network card could not be put in")


def _become_node(
    node: NodeConfig, cluster: str, paths: NodePaths, wait_for_network: Callable[[], None]
) -> None:
    node_cgroup.create(cluster, node.name)
    sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC | sc.CLONE_NEWNET | sc.CLONE_NEWCGROUP)
    node_cgroup.settle(cluster, node.name)
    wait_for_network()
    node_files.mount_view(paths)
    socket.sethostname(node.name)
