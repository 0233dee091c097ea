"""How an exit is noticed and what is made of it.

conmon is the container's parent: it reaps it, writes the exit code to a file and ends. Its end, seen through
a pidfd, is therefore the moment when the file is there, with no window in between to be polled. Only when
someone killed conmon is the container's own pidfd watched; its exit code is then lost and reported as 255.
"""

from __future__ import annotations

import logging
import signal
import time

from podling.runtime import conmon, sandbox_events
from podling.runtime.core import Container, Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import NamespaceMode
from podling.runtime.oci import security_context
from podling.runtime.state import ContainerPhase

log = logging.getLogger(__name__)

UNKNOWN_EXIT_CODE = 255


def watch(core: Core, container: Container) -> None:
    """Call `finish` when the container has ended; at once (on the loop) if it has already."""
    if container.conmon is not None:
        container.conmon.when_over(lambda: _conmon_ended(core, container))
    else:
        _conmon_ended(core, container)


def _conmon_ended(core: Core, container: Container) -> None:
    if container.conmon is not None:
        container.conmon.reap()
    if container.record.phase is not ContainerPhase.RUNNING:
        return
    if finish_from_file(core, container):
        return
    if container.process is not None and not container.process.over:
        log.warning("conmon of container %s is gone: its exit code will not be known", container.id[:12])
        container.process.when_over(lambda: _process_ended(core, container))
    else:
        _process_ended(core, container)


def _process_ended(core: Core, container: Container) -> None:
    if container.record.phase is ContainerPhase.RUNNING and not finish_from_file(core, container):
        finish(core, container, exit_code=UNKNOWN_EXIT_CODE, finished_at=time.time_ns(), reason="Unknown")


def finish_from_file(core: Core, container: Container) -> bool:
    """Take code and time from conmon's file; they are right also when it ended while we were not there."""
    found = conmon.read_exit(core.paths.exit_file(container.id))
    if found is None:
        return False
    exit_code, finished_at = found
    finish(core, container, exit_code=exit_code, finished_at=finished_at)
    return True


def finish(
    core: Core,
    container: Container,
    *,
    exit_code: int,
    finished_at: int,
    reason: str = "",
    message: str = "",
) -> None:
    """Write it down and tell everyone. `finished_at` in nanoseconds since 1970."""
    record = container.record
    if record.phase is ContainerPhase.EXITED:
        return
    _kill_stragglers(core, container)
    record.phase = ContainerPhase.EXITED
    record.exit_code = exit_code
    record.finished_at = finished_at
    record.reason = reason or _reason(core, container, exit_code)
    record.message = message
    core.records.save_container(record)
    container.ended.set()
    for process in (container.process, container.conmon):
        if process is not None:
            process.close()
    container.process = container.conmon = None
    kind = cri.ContainerEventType.CONTAINER_STOPPED_EVENT
    sandbox_events.publish(core, record.sandbox_id, record.id, kind)


def _reason(core: Core, container: Container, exit_code: int) -> str:
    """containerd's words."""
    # Whatever the first process made of it: that a child was killed is what its owner has to know.
    if _oom_killed(core, container):
        return "OOMKilled"
    return "Completed" if exit_code == 0 else "Error"


def _oom_killed(core: Core, container: Container) -> bool:
    # The kernel's own count: conmon's mark is written by a watcher that may lose the race with the end.
    marked = (core.paths.bundle(container.id) / "oom").exists()
    return marked or core.cgroups.oom_kills(container.record.cgroup) > 0


def _kill_stragglers(core: Core, container: Container) -> None:
    """The end of PID 1 takes a PID namespace with it; in a shared one children of the container live on."""
    options = security_context(container.record.config).namespace_options
    if options is not None and options.pid is not NamespaceMode.CONTAINER:
        core.cgroups.kill(container.record.cgroup, signal.SIGKILL)
