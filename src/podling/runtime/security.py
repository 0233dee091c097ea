"""From a CRI security profile to what goes into a specification."""

from __future__ import annotations

from pathlib import Path

import msgspec

from podling.runtime import seccomp
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import SecurityProfileType
from podling.runtime.oci import Seccomp

_BY_PATH = {
    "unconfined": SecurityProfileType.Unconfined,
    "runtime/default": SecurityProfileType.RuntimeDefault,
    "docker/default": SecurityProfileType.RuntimeDefault,
}


def profile_of(profile: cri.SecurityProfile | None, path: str) -> cri.SecurityProfile | None:
    """`profile`, else what the field that it has replaced says (`seccomp_profile_path`, `apparmor_profile`).

    Raises `CRIError`: what somebody wanted to be confined by must not be passed over."""
    if profile is not None or not path:
        return profile
    if path in _BY_PATH:
        return cri.SecurityProfile(profile_type=_BY_PATH[path])
    if not path.startswith("localhost/"):
        raise CRIError(Code.INVALID_ARGUMENT, f"invalid profile {path!r}")
    reference = path.removeprefix("localhost/")
    return cri.SecurityProfile(profile_type=SecurityProfileType.Localhost, localhost_ref=reference)


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
        return Seccomp(profile=_local_profile(profile.localhost_ref))
    compiled = seccomp.filter_annotation(capabilities)
    return Seccomp(filter=compiled) if compiled else Seccomp(profile=seccomp.to_oci(capabilities))


def _local_profile(path: str) -> dict[str, object]:
    if not path.startswith("/"):
        raise CRIError(Code.INVALID_ARGUMENT, f"seccomp profile {path!r} is not an absolute path")
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.MsgspecError) as err:
        raise CRIError(Code.INVALID_ARGUMENT, f"cannot load seccomp profile {path}: {err}") from err


APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
APPARMOR_PROFILES = Path("/sys/kernel/security/apparmor/profiles")
SELINUX = Path("/sys/fs/selinux/enforce")


def resolve_apparmor(profile: cri.SecurityProfile | None, *, privileged: bool) -> str:
    """The name of a loaded profile, or nothing. Raises `CRIError` for one that cannot be had.

    Where the kernel has no AppArmor only a profile by name is refused, as with containerd. Differs from
    upstream: RuntimeDefault means no profile where it has, since we load none of our own.
    """
    if profile is None or profile.profile_type is not SecurityProfileType.Localhost or privileged:
        return ""
    name = profile.localhost_ref.removeprefix("localhost/")
    if not APPARMOR.exists() or APPARMOR.read_text().strip() != "Y":
        raise CRIError(Code.FAILED_PRECONDITION, f"apparmor profile {name!r}: apparmor is not supported")
    loaded = {line.rpartition(" (")[0] for line in APPARMOR_PROFILES.read_text().splitlines()}
    if name not in loaded:
        raise CRIError(Code.INVALID_ARGUMENT, f"apparmor profile not found {name}")
    return name


def check_selinux(options: cri.SELinuxOption | None) -> None:
    """Without SELinux in the kernel labels mean nothing, and are ignored as with containerd. With it we give
    none, and say so rather than start what should have been confined."""
    if options is not None and options != cri.SELinuxOption() and SELINUX.exists():
        raise CRIError(Code.UNIMPLEMENTED, f"SELinux label {options.type!r}: SELinux is not supported")
