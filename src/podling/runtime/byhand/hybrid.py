"""crun on a machine with v1 cgroups and an unused v2 hierarchy beside them (`/sys/fs/cgroup/unified`).

crun 1.8 refuses to work where it sees both. The agent of a node has a mount namespace of its own in which the
v2 hierarchy is not mounted; a command typed by hand lives in the machine's, and must neither unmount anything
there nor hide the overlays it mounts from the next command. So only crun itself gets a mount namespace: a
wrapper unshares one, unmounts the hierarchy in it and becomes crun. The overlays stay in the machine's
namespace, and what is unmounted there disappears in crun's copy too (it is a slave).

Measured: 4 ms for each call of crun. Rejected: a pinned mount namespace that all commands enter (nobody could
look at a container's files from the machine), and `--cgroup-manager=disabled` (no limits, no statistics).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from podling.linux.cgroups import Cgroups

NAME = "crun-hybrid"


def write_wrapper(run_dir: Path, crun: str) -> Path:
    """Write it if it is not there yet; returns its path."""
    run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    unified = shlex.quote(str(Cgroups().unified))
    inside = f'umount -l {unified} && exec {shlex.quote(crun)} "$@"'
    text = f'#!/bin/sh\nexec unshare --mount --propagation slave sh -c {shlex.quote(inside)} crun "$@"\n'
    path = run_dir / NAME
    if path.exists() and path.read_text() == text:
        return path
    beside = path.with_name(f".{NAME}.{os.getpid()}")
    beside.write_text(text)
    beside.chmod(0o755)
    beside.rename(path)
    return path
