"""Which exceptions are an answer to the user, and which are our bug and keep their traceback."""

from __future__ import annotations

import sys

_EXPECTED = {
    "podling.machine.config": ("ConfigError",),
    "podling.machine.cluster": ("UpError",),
    "podling.machine.node": ("NodeError",),
    "podling.client.errors": ("ApiError", "TransportError"),
    "podling.client.kubeconfig": ("KubeconfigError",),
    "podling.machine.kubectl": ("KubectlNotFoundError",),
    "podling.runtime.cri.errors": ("CRIError",),
    "podling.runtime.byhand.errors": ("HandError",),
    "podling.runtime.images.errors": ("ImageError",),
    "podling.linux.nft": ("NFTError",),
    "podling.linux.cbuild": ("BuildError",),
}


def expected(err: Exception) -> bool:
    """True for errors whose text is written for users. Modules never imported cannot have raised."""
    for module, names in _EXPECTED.items():
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(
            err, tuple(getattr(loaded, n) for n in names if hasattr(loaded, n))
        ):
            return True
    return isinstance(err, PermissionError)


def message(err: Exception) -> str:
    remedy = getattr(err, "remedy", "")
    return f"{err}\n{remedy}" if remedy and remedy not in str(err) else str(err)
