"""Where containers run by hand are kept: apart from the node agent's, which removes what it does not know."""

from __future__ import annotations

import os
from pathlib import Path

from podling.runtime.config import RuntimeConfig


def by_hand_config() -> RuntimeConfig:
    """$PODLING_HAND_ROOT and $PODLING_HAND_RUN move everything, for tests and for the curious."""
    root = Path(os.environ.get("PODLING_HAND_ROOT", "/var/lib/podling/byhand"))
    run = Path(os.environ.get("PODLING_HAND_RUN", "/run/podling-byhand"))
    usual = RuntimeConfig()
    return config_at(root, run, Path(os.environ.get("PODLING_IMAGE_DIR", usual.image_dir)))


def config_at(root: Path, run: Path, images: Path) -> RuntimeConfig:
    return RuntimeConfig(
        root_dir=root,
        run_dir=run,
        image_dir=images,
        cni_conf_dir=root / "networks",
        cni_bin_dirs=(run / "cni-bin",),
        cni_cache_dir=run / "cni-results",
        netns_dir=run / "netns",
        cgroup_parent="/podling-byhand",
    )
