"""A pod's user namespace: which of the node's users its own stand for (CRI, "UserNamespace").

    root in the pod is host ID 131072, user 1 is 131073, ... up to the length of the range

crun makes the namespace with pause, from the mappings a kubelet has chosen; pause's other namespaces belong
to it, and each container joins it by pause's path. Files keep their owners on the disk: the image's layer and
the volumes are mounted with their owners mapped (`linux.mounts.bind_idmapped`), and what a container writes
into its own layer is written as the host IDs that it runs as.
"""

from __future__ import annotations

from collections.abc import Sequence

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.messages import NamespaceMode


def of(options: cri.NamespaceOption) -> cri.UserNamespace | None:
    """The pod's own; None when its users are the node's."""
    given = options.userns_options
    return given if given is not None and given.mode is NamespaceMode.POD else None


def check(options: cri.NamespaceOption, pod: str) -> None:
    """Raises `CRIError` INVALID_ARGUMENT for what cannot be a user namespace."""
    given = options.userns_options
    if given is None:
        return
    what = f"pod {pod!r}: user namespace"
    if given.mode is NamespaceMode.NODE:
        if given.uids or given.gids:
            raise CRIError(Code.INVALID_ARGUMENT, f"{what}: mode NODE takes no ID mappings")
        return
    if given.mode is not NamespaceMode.POD:
        name = getattr(given.mode, "name", given.mode)
        raise CRIError(Code.INVALID_ARGUMENT, f"{what}: unsupported mode {name}")
    for kind, mappings in (("uid", given.uids), ("gid", given.gids)):
        if host_id(mappings, 0) is None or any(mapping.length == 0 for mapping in mappings):
            raise CRIError(
                Code.INVALID_ARGUMENT, f"{what}: the {kind} mappings must map 0, and no empty range"
            )
    # A kernel object of the node's does not obey to the pod's root: not its /sys, nor its /proc.
    for kind in ("network", "pid", "ipc"):
        if getattr(options, kind) is NamespaceMode.NODE:
            raise CRIError(Code.INVALID_ARGUMENT, f"{what}: cannot be used with the node's {kind} namespace")


def host_id(mappings: Sequence[cri.IDMapping], wanted: int) -> int | None:
    """The node's ID of one of the pod's; None when it has none."""
    for mapping in mappings:
        if mapping.container_id <= wanted < mapping.container_id + mapping.length:
            return mapping.host_id + wanted - mapping.container_id
    return None


def root(users: cri.UserNamespace | None) -> tuple[int, int]:
    """UID and GID on the node of the pod's root."""
    if users is None:
        return 0, 0
    return host_id(users.uids, 0) or 0, host_id(users.gids, 0) or 0


def last_gid(users: cri.UserNamespace) -> int:
    """The highest ID up to which all from 0 are mapped."""
    gid = 0
    while (
        mapping := next((m for m in users.gids if m.container_id <= gid < m.container_id + m.length), None)
    ) is not None:
        gid = mapping.container_id + mapping.length
    return gid - 1


def to_oci(mappings: Sequence[cri.IDMapping]) -> list[dict[str, int]]:
    """OCI runtime spec, "User namespace mappings"."""
    return [{"containerID": m.container_id, "hostID": m.host_id, "size": m.length} for m in mappings]


def check_user(users: cri.UserNamespace, user: cri.LinuxContainerUser) -> None:
    """Raises `CRIError` INVALID_ARGUMENT when someone the container is to run as has no ID on the node."""
    if host_id(users.uids, user.uid) is None:
        raise CRIError(Code.INVALID_ARGUMENT, f"user {user.uid} is not mapped in the pod's user namespace")
    for gid in (user.gid, *user.supplemental_groups):
        if host_id(users.gids, gid) is None:
            raise CRIError(Code.INVALID_ARGUMENT, f"group {gid} is not mapped in the pod's user namespace")


def check_mount(users: cri.UserNamespace | None, mount: cri.Mount) -> bool:
    """Whether the owners of a mount are to be mapped. Only the pod's own mapping can be had."""
    if not mount.uid_mappings and not mount.gid_mappings:
        return False
    if users is None or mount.uid_mappings != users.uids or mount.gid_mappings != users.gids:
        raise CRIError(
            Code.INVALID_ARGUMENT,
            f"mount {mount.container_path}: its ID mappings are not those of the pod's user namespace",
        )
    return True
