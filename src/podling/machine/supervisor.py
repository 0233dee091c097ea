"""The supervisor: one process per cluster that makes its nodes and keeps their daemons running.

It has imported everything before it forks, so each daemon starts in milliseconds and shares its pages.
It stays single-threaded and runs no event loop: a process that forks must not have either. After the
start it only waits for SIGCHLD: a daemon that ended is forked again (at once, then with back-off while
it keeps failing), a node that lost its PID 1 stays down, as a machine whose plug was pulled.

Killing the supervisor harms nothing: nodes and daemons live on, `podling down` finds them by the record.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvloop

from podling.linux.netns import run_in_netns
from podling.linux.processes import reference
from podling.machine import egress, switch
from podling.machine import node as node_sandbox
from podling.machine.agent import run_agent
from podling.machine.agent_config import AgentConfig
from podling.machine.config import API_PORT, ClusterConfig, NodeConfig
from podling.machine.control_plane import ControlPlaneConfig, preload, run_control_plane
from podling.machine.node_config import agent_config, write_node_config
from podling.machine.node_power import START_SIGNAL
from podling.machine.paths import ClusterPaths
from podling.machine.record import ClusterRecord
from podling.pause.build import pause_path

CONTROL_PLANE = "control-plane"
BACKLOG = 1024
RESTART_BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)
DEBUG_VERBOSITY = 4
GC_THRESHOLD = (20_000, 20, 50)
"""Python's own (700, 10, 10) spent 4 % of an agent's time on looking through objects that stay."""
HEALTHY_AFTER_S = 30.0
"""A daemon that ran this long starts at the front of the back-off again."""


def agent_of(node: str) -> str:
    return f"agent@{node}"


class Supervisor:
    def __init__(self, record: ClusterRecord, report: Callable[[str], None]) -> None:
        self.record = record
        self.config: ClusterConfig = record.config
        self.paths = ClusterPaths.of(self.config.name)
        self.report = report
        self._listener: socket.socket | None = None
        self._started: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def start(self) -> None:
        """Make the switch and the nodes, start every daemon. Raises what went wrong; `down` cleans up."""
        self.record.supervisor = reference(os.getpid())
        self.record.save()
        switch.make(self.config)
        self.report("switch")
        pause = pause_path()
        for node in self.config.nodes:
            self._start_node(node, pause)
            self.report(f"node {node.name}")
        self._listener = self._listen()
        preload()
        # What is there now is shared by all that we fork; a collection must not touch, and so copy, it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        gc.enable()
        self._fork_control_plane()
        self.report("control plane")
        for node in self.config.nodes:
            self._fork_agent(node)
        self.record.save()
        self.report("agents")

    def run(self) -> None:
        """Keep the daemons running until SIGTERM or SIGINT; then end the cluster's processes."""
        signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, START_SIGNAL}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        while True:
            self._reap()
            self._restart_due()
            timeout = min(self._due.values()) - time.monotonic() if self._due else None
            got = (
                signal.sigtimedwait(signals, max(0.0, timeout))
                if timeout is not None
                else signal.sigwaitinfo(signals)
            )
            if got is not None and got.si_signo == START_SIGNAL:
                self._reap()
                self._start_requested()
            elif got is not None and got.si_signo != signal.SIGCHLD:
                self.stop()
                return

    def _start_requested(self) -> None:
        """Start the nodes somebody asked for (`node_power`). One that cannot be started stays down."""
        for request in sorted(self.paths.start_requests.iterdir()):
            node = self.config.node(request.name)
            try:
                if not self.record.nodes[node.name].running:
                    self._start_again(node)
            except Exception:
                traceback.print_exc()
            request.unlink(missing_ok=True)

    def _start_again(self, node: NodeConfig) -> None:
        self._start_node(node, pause_path())
        _log(f"started node {node.name} again")
        processes = [agent_of(node.name)]
        if node.control_plane:
            processes.append(CONTROL_PLANE)
            if self._listener is not None:
                self._listener.close()
            self._listener = self._listen()
            self._fork_control_plane()
        for process in processes:
            self._due.pop(process, None)
            self._failures.pop(process, None)
        self._fork_agent(node)
        self.record.save()

    def stop(self) -> None:
        """Kill every node, and reap all that lived in them: until then a node's PID 1 cannot end."""
        for process in [*self.record.nodes.values(), *self.record.processes.values()]:
            if process.alive:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _start_node(self, node: NodeConfig, pause: Path) -> None:
        node_paths = self.paths.node(node.name)
        write_node_config(self.config, node, node_paths)
        process = node_sandbox.start_node(
            node, self.config.name, node_paths, pause, lambda pid: switch.plug_in(self.config, node, pid)
        )
        self.record.nodes[node.name] = process
        # flannel masquerades what leaves the pod network itself.
        if self.config.egress and not self.config.network.is_flannel:
            run_in_netns(f"/proc/{process.pid}/ns/net", egress.allow_pods, self.config, node.pod_cidr)
        self.record.save()

    def _listen(self) -> socket.socket:
        """The API server's socket, open before anyone connects: early clients wait instead of failing,
        and so do clients while the control plane restarts."""
        master = self.config.nodes[0]

        def listen() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", API_PORT))
            sock.listen(BACKLOG)
            return sock

        return run_in_netns(f"/proc/{self.record.nodes[master.name].pid}/ns/net", listen)

    def _fork_control_plane(self) -> None:
        config = ControlPlaneConfig(
            advertise_address=self.config.nodes[0].address,
            service_cidr=self.config.service_network,
            pod_cidr=self.config.pod_network,
            load_balancer_cidr=self.config.load_balancer_network,
        )
        self._fork(self.config.nodes[0], CONTROL_PLANE, lambda: _serve(config, self._listener))

    def _fork_agent(self, node: NodeConfig) -> None:
        config = agent_config(self.config, node)
        self._fork(node, agent_of(node.name), lambda: _run_agent(config))

    def _fork(self, node: NodeConfig, process: str, main: Callable[[], None]) -> None:
        group = CONTROL_PLANE if process == CONTROL_PLANE else "agent"
        # Opened on this side: the node does not see the folder of logs.
        log = open_log(self.paths.log(process))
        pid = node_sandbox.fork_into(self.record.nodes[node.name].pid, self.config.name, node.name, group)
        if pid == 0:
            level = logging.DEBUG if self.config.verbosity >= DEBUG_VERBOSITY else logging.INFO
            _daemon(log, main, level=level, keep=self._listener if process == CONTROL_PLANE else None)
        os.close(log)
        self._started[process] = time.monotonic()
        started = reference(pid)
        if started is not None:
            self.record.processes[process] = started

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process, ref in list(self.record.processes.items()):
                if ref.pid == pid:
                    self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: str, code: int) -> None:
        del self.record.processes[process]
        if not self._node_up(process):
            self.record.save()
            return
        ran_s = time.monotonic() - self._started[process]
        failures = 0 if ran_s > HEALTHY_AFTER_S else self._failures.get(process, 0)
        delay_s = RESTART_BACKOFF_S[min(failures, len(RESTART_BACKOFF_S) - 1)]
        self._failures[process] = failures + 1
        self._due[process] = time.monotonic() + delay_s
        _log(f"{process} ended with code {code} after {ran_s:.1f} s; starting it again in {delay_s:g} s")

    def _restart_due(self) -> None:
        now = time.monotonic()
        due = [p for p, at in self._due.items() if at <= now]
        for process in due:
            del self._due[process]
            if not self._node_up(process):
                continue
            if process == CONTROL_PLANE:
                self._fork_control_plane()
            else:
                self._fork_agent(self.config.node(process.partition("@")[2]))
        if due:
            self.record.save()

    def _node_up(self, process: str) -> bool:
        """Whether the node of a process is there, and not on its way out, when its children end first."""
        node = self.config.nodes[0].name if process == CONTROL_PLANE else process.partition("@")[2]
        return self.record.nodes[node].running


def _serve(config: ControlPlaneConfig, listener: socket.socket | None) -> None:
    uvloop.run(run_control_plane(config, listener))


def _run_agent(config: AgentConfig) -> None:
    uvloop.run(run_agent(config))


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} supervisor: {text}", file=sys.stderr, flush=True)


def _daemon(log: int, main: Callable[[], None], *, level: int, keep: socket.socket | None) -> None:
    """In a forked child: detach from everything of the parent's, run `main`, exit. Never returns."""
    code = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        redirect(log)
        close_all_but_stdio(keep.fileno() if keep else -1)
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def open_log(log: Path) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def redirect(log: int) -> None:
    """Standard input from /dev/null, output and errors to the open file `log`."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, fd)


def close_all_but_stdio(keep: int) -> None:
    """Close every inherited descriptor but 0, 1, 2 and `keep`."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != keep:
            with suppress(OSError):
                os.close(fd)
