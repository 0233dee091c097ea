"""`kill -9` at any point of any operation: nothing is lost, nothing is left (`kill_anywhere`)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernel.runtime_local import PARENT
from podling.linux.cgroups import Cgroups
from podling.linux.mounts import unmount_below

KILLS = int(os.environ.get("PODLING_KILLS", "240"))
SEED = int(os.environ.get("PODLING_KILL_SEED", str(random.randrange(10**6))))


def test_killed_at_any_point_of_any_operation(image_dir: Path) -> None:
    """PODLING_KILLS and PODLING_KILL_SEED set how many and which."""
    base = Path(tempfile.mkdtemp(prefix="pk-"))  # sockets below it must have short paths
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "PODLING_TEST_CGROUP": PARENT,
    }
    argv = [sys.executable, "-m", "kernel.kill_anywhere", base, image_dir, str(SEED), str(KILLS)]
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"PODLING_KILL_SEED={SEED}\n{done.stderr[-5000:]}"
        # Some lives are over before their chosen step: helpers and threads are not as long every time.
        assert sum(json.loads(done.stdout)["kills"].values()) >= KILLS * 3 // 4
    finally:
        subprocess.run(["ip", "link", "del", "cni-test0"], capture_output=True, check=False)
        Cgroups().kill(PARENT)
        unmount_below(base)
        shutil.rmtree(base)
