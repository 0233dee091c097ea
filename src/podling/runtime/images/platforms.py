"""Which image of a multi-platform index runs on this machine.

OCI image index specification, "Image Index Property Descriptions", `platform`; variants as containerd ranks
them: an exact one first, then what the machine can also run.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

from podling.runtime.images.oci import Descriptor, Platform

# Go's names for machines (GOARCH), which OCI platforms use, with the variants this machine runs, best first.
_MACHINES = {
    "x86_64": ("amd64", ("", "v1")),
    "aarch64": ("arm64", ("v8", "")),
    "armv8l": ("arm", ("v8", "v7", "v6", "v5", "")),
    "armv7l": ("arm", ("v7", "v6", "v5", "")),
    "armv6l": ("arm", ("v6", "v5", "")),
    "i686": ("386", ("",)),
    "ppc64le": ("ppc64le", ("",)),
    "s390x": ("s390x", ("",)),
    "riscv64": ("riscv64", ("",)),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}


def host_architecture() -> str:
    return _host()[0]


def _host() -> tuple[str, tuple[str, ...]]:
    machine = platform.machine()
    return _MACHINES.get(machine, (machine, ("",)))


def rank(wanted: Platform | None) -> int | None:
    """0 for what fits best; None when it does not run here. No platform fits, as it always did."""
    if wanted is None:
        return 0
    architecture, variants = _host()
    found = _ALIASES.get(wanted.architecture, wanted.architecture)
    if (wanted.os, found) != ("linux", architecture) or wanted.variant not in variants:
        return None
    return variants.index(wanted.variant)


def choose(manifests: Sequence[Descriptor]) -> Descriptor | None:
    """The best of an index's entries; the first of equals."""
    fitting = [(found, one) for one in manifests if (found := rank(one.platform)) is not None]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def describe(manifests: Sequence[Descriptor]) -> str:
    """`linux/arm64/v8, linux/s390x`: what there is, for the error when nothing fits."""
    named = dict.fromkeys(
        "/".join(part for part in (one.platform.os, one.platform.architecture, one.platform.variant) if part)
        for one in manifests
        if one.platform is not None and one.platform.os not in ("", "unknown")
    )
    return printable(", ".join(named)) or "nothing that names a platform"


def printable(text: str) -> str:
    """Strangers' words, for an error that may end on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def this_machine() -> str:
    return f"linux/{host_architecture()}"
