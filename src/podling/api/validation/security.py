"""Security contexts of pods and containers."""

from __future__ import annotations

import re
from typing import Final

from podling.api import names
from podling.api.validation.faults import (
    Faults,
    Object,
    check_text,
    duplicate,
    forbidden,
    invalid,
    required,
    unsupported,
)
from podling.api.validation.volume import check_descending_path

_MAX_ID: Final = 2**31 - 1
_SYSCTL_SEGMENT: Final = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL: Final = rf"({_SYSCTL_SEGMENT}[\./])*{_SYSCTL_SEGMENT}"
_SECCOMP_TYPES: Final = ("Localhost", "RuntimeDefault", "Unconfined")


def check_pod_security(spec: Object, path: str, faults: Faults) -> None:
    context = spec.get("securityContext") or {}
    if context:
        where = f"{path}.securityContext"
        for key in ("runAsUser", "runAsGroup", "fsGroup"):
            _check_id(context.get(key), f"{where}.{key}", faults)
        for index, group in enumerate(context.get("supplementalGroups", ())):
            _check_id(group, f"{where}.supplementalGroups[{index}]", faults)
        policy = context.get("fsGroupChangePolicy")
        if policy is not None and policy not in ("Always", "OnRootMismatch"):
            choices = ("Always", "OnRootMismatch")
            faults.append(unsupported(f"{where}.fsGroupChangePolicy", policy, choices))
        _check_sysctls(spec, context.get("sysctls", ()), f"{where}.sysctls", faults)
        _check_profiles(context, where, faults)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        faults.append(invalid(f"{path}.shareProcessNamespace", True, detail))
    if spec.get("hostUsers") is False:
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                faults.append(forbidden(f"{path}.{key}", "when `hostUsers` is false"))
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(key, ())):
            _check_users(container, spec.get("hostUsers") is False, f"{path}.{key}[{index}]", faults)


def _check_users(container: Object, own_users: bool, path: str, faults: Faults) -> None:
    """What only, and what never, goes with a user namespace of the pod's own."""
    context = container.get("securityContext") or {}
    if context.get("procMount") == "Unmasked" and not own_users:
        detail = "`hostUsers` must be false to use `Unmasked`"
        faults.append(invalid(f"{path}.securityContext.procMount", "Unmasked", detail))
    if container.get("volumeDevices") and own_users:
        faults.append(forbidden(f"{path}.volumeDevices", "when `hostUsers` is false"))


def check_container_security(context: Object, path: str, faults: Faults) -> None:
    for key in ("runAsUser", "runAsGroup"):
        _check_id(context.get(key), f"{path}.{key}", faults)
    if context.get("procMount", "Default") not in ("Default", "Unmasked"):
        faults.append(unsupported(f"{path}.procMount", context["procMount"], ("Default", "Unmasked")))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            faults.append(invalid(path, context, detail))
        if "CAP_SYS_ADMIN" in context.get("capabilities", {}).get("add", ()):
            detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            faults.append(invalid(path, context, detail))
    _check_profiles(context, path, faults)


def _check_profiles(context: Object, path: str, faults: Faults) -> None:
    for key in ("seccompProfile", "appArmorProfile"):
        profile = context.get(key)
        if profile is None:
            continue
        where = f"{path}.{key}"
        kind, local = profile.get("type", ""), profile.get("localhostProfile")
        if not kind:
            faults.append(required(f"{where}.type", f"type is required when {key} is set"))
        elif kind not in _SECCOMP_TYPES:
            faults.append(unsupported(f"{where}.type", kind, _SECCOMP_TYPES))
        elif kind == "Localhost":
            if not local:
                detail = f"must be set when {key.removesuffix('Profile')} type is Localhost"
                faults.append(required(f"{where}.localhostProfile", detail))
            elif key == "seccompProfile":
                check_descending_path(local, f"{where}.localhostProfile", faults)
        elif local is not None:
            detail = f"can only be set when {key.removesuffix('Profile')} type is Localhost"
            faults.append(invalid(f"{where}.localhostProfile", local, detail))


def _check_id(value: int | None, path: str, faults: Faults) -> None:
    if value is not None and not 0 <= value <= _MAX_ID:
        faults.append(invalid(path, value, names.in_range(0, _MAX_ID)))


def _check_sysctls(spec: Object, sysctls: list[Object], path: str, faults: Faults) -> None:
    seen: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        where, name = f"{path}[{index}].name", sysctl.get("name", "")
        if not name:
            faults.append(required(where))
        elif len(name) > 253 or not re.fullmatch(_SYSCTL, name):
            detail = f"must have at most 253 characters and match regex ^{_SYSCTL}$"
            check_text(where, name, [detail], faults)
        elif name in seen:
            faults.append(duplicate(where, name))
        seen.add(name)
        if spec.get("hostNetwork") and name.startswith("net."):
            faults.append(invalid(where, name, "may not be specified when 'hostNetwork' is true"))
        if spec.get("hostIPC") and name.startswith(("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")):
            faults.append(invalid(where, name, "may not be specified when 'hostIPC' is true"))
