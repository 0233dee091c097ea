"""What `/version` says: the Kubernetes whose API this is."""

from __future__ import annotations

import platform
import sys

MAJOR, MINOR = "1", "37"
GIT_VERSION = f"v{MAJOR}.{MINOR}.0+podling"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def version_info() -> dict[str, str]:
    """The fields of `version.Info`."""
    machine = platform.machine()
    return {
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "compiler": sys.implementation.name,
        "platform": f"{sys.platform}/{_ARCHITECTURES.get(machine, machine)}",
    }
