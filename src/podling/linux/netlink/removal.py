"""Deleting links in groups.

The kernel takes 15 to 40 ms to delete one veth pair, nearly all of it waiting for an RCU grace period with
the lock of all link changes held; many in one request share that wait. When several threads delete at once
(a namespace of fifty pods goes), the first one in works and the others' links join the next round: a round
marks its links with a group number and deletes the group. The contract is that of a plain deletion: on
return the link is gone.
"""

from __future__ import annotations

import _thread
import errno
import os

from podling.linux.netlink import links
from podling.linux.netlink.client import Netlink
from podling.linux.netlink.wire import NetlinkError

GROUP = 0x70646C67  # "pdlg": our mark on links about to go; nobody else deletes or uses this group

_guard = _thread.allocate_lock()  # of _rounds
_rounds: dict[int, list[_Job]] = {}  # waiting links by the inode of their namespace
_turn = _thread.allocate_lock()  # one round at a time


class _Job:
    """A link to delete; `error` and `done` are set by whoever works the round."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.done = False
        self.error: BaseException | None = None


def remove_link(index: int) -> None:
    """Delete a link of the calling thread's namespace, perhaps together with others. Missing is fine."""
    netns = os.stat("/proc/thread-self/ns/net").st_ino
    job = _Job(index)
    with _guard:
        _rounds.setdefault(netns, []).append(job)
    with _turn:
        if not job.done:
            with _guard:
                jobs = _rounds.pop(netns)
            _work(jobs)
    if job.error:
        raise job.error


def _work(jobs: list[_Job]) -> None:
    error: BaseException | None = None
    try:
        with Netlink() as nl:
            if len(jobs) == 1:
                nl.link_del(jobs[0].index, missing_ok=True)
            elif _mark(nl, jobs):
                nl.execute(links.delete_group(GROUP))
    except BaseException as err:
        error = err
    for job in jobs:
        job.done, job.error = True, error


def _mark(nl: Netlink, jobs: list[_Job]) -> int:
    marked = 0
    for job in jobs:
        try:
            nl.execute(links.set_group(job.index, GROUP))
            marked += 1
        except NetlinkError as err:
            if err.errno != errno.ENODEV:
                raise
    return marked
