"""A node's plug: pulled by `stop_node`, put in again by `start_node`.

Stopping kills the node's PID 1, and with it everything in its namespaces. What it has on disk stays, as of a
machine: its agent finds its pods' records and starts them anew. Only the supervisor can make a node, so
starting leaves a request in the cluster's folder and wakes it with `START_SIGNAL`.
"""

from __future__ import annotations

import os
import signal
import time

from podling.linux.processes import end
from podling.machine import record
from podling.machine.config import ConfigError
from podling.machine.paths import ClusterPaths
from podling.machine.record import ClusterRecord

START_SIGNAL = signal.SIGUSR1
START_TIMEOUT_S = 60.0
LOOK_S = 0.02


def stop_node(made: ClusterRecord, node: str) -> None:
    """Return when nothing of it runs any more. One that is down is success. Raises `ConfigError`."""
    made.config.node(node)
    process = made.nodes.get(node)
    if process is not None and not end(process, grace_s=0):
        raise ConfigError(f"process {process.pid} of node {node} does not end")


def start_node(made: ClusterRecord, node: str) -> None:
    """Return when its agent has been started. A node that runs already is success. Raises `ConfigError`."""
    made.config.node(node)
    supervisor = made.supervisor
    if _runs(made, node):
        return
    if supervisor is None or not supervisor.alive:
        raise ConfigError(
            f"the supervisor of cluster {made.config.name} is gone, and nobody else can start a node: "
            f"`podling down --name {made.config.name}`, then `podling up`"
        )
    paths = ClusterPaths.of(made.config.name)
    request = paths.start_requests / node
    request.parent.mkdir(exist_ok=True)
    request.touch()
    os.kill(supervisor.pid, START_SIGNAL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        taken = not request.exists()
        now = record.load(made.config.name)
        if now is not None and _runs(now, node):
            return
        if taken:
            break
        time.sleep(LOOK_S)
    request.unlink(missing_ok=True)
    raise ConfigError(f"node {node} could not be started: {paths.log('supervisor')} says why")


def _runs(made: ClusterRecord, node: str) -> bool:
    process = made.nodes.get(node)
    return process is not None and process.alive
