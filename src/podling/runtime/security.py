"""From a CRI security profile to what goes into a specification."""

from __future__ import annotations

from pathlib import Path

import msgspec

from podling.runtime import seccomp
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import SecurityProfileType
from podling.runtime.oci import Seccomp


def resolve_seccomp(profile: cri.SecurityProfile | None, capabilities: frozenset[str]) -> Seccomp:
    """Without a profile the runtime's default applies. Raises `CRIError` for an unusable local profile.

    Differs from upstream: containerd leaves a container unconfined when no profile is given; our kubelet,
    like upstream's, always gives one, so this concerns only direct clients, who are safer so.
    """
    kind = profile.profile_type if profile else SecurityProfileType.RuntimeDefault
    if kind is SecurityProfileType.Unconfined:
        return Seccomp()
    if kind is SecurityProfileType.Localhost:
        assert profile is not None
        return Seccomp(profile=_local_profile(Path(profile.localhost_ref)))
    compiled = seccomp.filter_annotation(capabilities)
    return Seccomp(filter=compiled) if compiled else Seccomp(profile=seccomp.to_oci(capabilities))


def _local_profile(path: Path) -> dict[str, object]:
    if not path.is_absolute():
        raise CRIError(Code.INVALID_ARGUMENT, f"seccomp profile {str(path)!r} is not an absolute path")
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.MsgspecError) as err:
        raise CRIError(Code.INVALID_ARGUMENT, f"cannot load seccomp profile {path}: {err}") from err
