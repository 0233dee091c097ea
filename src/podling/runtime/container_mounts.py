"""What a container's mounts come from: paths of the node, images, and both with owners mapped.

    containers/ID/lower      the image's layer as the pod's users see it, while the overlay is being mounted
    containers/ID/mounts/N   the N-th mount as they see it, while the container is there

Only pods with a user namespace have the latter. All here blocks: call it in a thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from podling.linux import mounts
from podling.runtime import userns
from podling.runtime.core import Core, Sandbox
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images.errors import ImageError
from podling.runtime.images.inroot import open_dir
from podling.runtime.images.record import ImageRecord
from podling.runtime.state import ContainerRecord, remove_tree


def volume_images(core: Core, config: cri.ContainerConfig) -> dict[str, ImageRecord]:
    """The image of each image volume, by container path. Raises `CRIError` NOT_FOUND, INVALID_ARGUMENT."""
    return {m.container_path: _volume_image(core, m, m.image) for m in config.mounts if m.image is not None}


def _volume_image(core: Core, mount: cri.Mount, image: cri.ImageSpec) -> ImageRecord:
    problem = ""
    if mount.host_path:
        problem = "hostpath must be empty while mounting an image"
    elif not mount.readonly:
        problem = "readonly must be true while mounting an image"
    elif not image.image:
        problem = "image not specified"
    if problem:
        raise CRIError(Code.INVALID_ARGUMENT, _failure(mount, problem))
    try:
        found = core.images.resolve(image.image)
    except ImageError as err:
        raise CRIError(err.code, _failure(mount, err.message)) from err
    if found is None:
        raise CRIError(Code.NOT_FOUND, _failure(mount, f"image {image.image!r} not found"))
    return found


def _failure(mount: cri.Mount, cause: str) -> str:
    """The first word is the CRI's (`pkg/errors`); a kubelet makes it the container's reason."""
    return f"ImageVolumeMountFailed: mount {mount.container_path}: {cause}"


def mount_rootfs(layer: Path, lower: Path, sandbox: Sandbox) -> None:
    """The image with a writable layer over it at `layer`/rootfs, owned as the pod's users have it."""
    users = sandbox.record.user_namespace
    for name in ("upper", "work", "rootfs"):
        (layer / name).mkdir(mode=0o755)
    if users is None:
        mounts.mount_overlay(layer / "rootfs", lower=[lower], upper=layer / "upper", work=layer / "work")
        return
    for name in ("upper", "work"):
        os.chown(layer / name, *userns.root(users))
    mapped = layer / "lower"
    mapped.mkdir(mode=0o755)
    mounts.bind_idmapped(lower, mapped, _namespace(sandbox))
    try:
        mounts.mount_overlay(layer / "rootfs", lower=[mapped], upper=layer / "upper", work=layer / "work")
    finally:
        mounts.unmount(mapped)  # the overlay keeps it


def sources(
    core: Core, record: ContainerRecord, sandbox: Sandbox, images: dict[str, ImageRecord]
) -> dict[str, Path]:
    """Make every source ready; by container path, where each mount comes from."""
    found: dict[str, Path] = {}
    for index, mount in enumerate(record.config.mounts):
        if mount.image is not None:
            source = _in_image(core.images.rootfs_path(images[mount.container_path]), mount)
        else:
            source = Path(mount.host_path)
            _ensure_source(source)
        wanted = userns.check_mount(sandbox.record.user_namespace, mount)
        if wanted or (mount.image is not None and sandbox.record.user_namespace is not None):
            source = _mapped(source, core.paths.mapped_mounts(record.id) / str(index), sandbox)
        found[mount.container_path] = source
    return found


def _ensure_source(path: Path) -> None:
    """A host path that is not there becomes a directory, as with Docker and containerd."""
    if not path.exists():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)


def _in_image(rootfs: Path, mount: cri.Mount) -> Path:
    """The image's file system, or a directory in it; symlinks of the image lead nowhere else."""
    if not mount.image_sub_path:
        return rootfs
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_dir(root, mount.image_sub_path)
        try:
            return Path(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
    except NotADirectoryError as err:
        cause = f"only directory subpath is supported, subpath: {mount.image_sub_path!r}"
        raise CRIError(Code.INVALID_ARGUMENT, _failure(mount, cause)) from err
    except OSError as err:
        cause = f"failed to ensure image subpath {mount.image_sub_path!r}: {err.strerror}"
        raise CRIError(Code.NOT_FOUND, _failure(mount, cause)) from err
    finally:
        os.close(root)


def _mapped(source: Path, target: Path, sandbox: Sandbox) -> Path:
    target.parent.mkdir(mode=0o711, exist_ok=True)
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    mounts.bind_idmapped(source, target, _namespace(sandbox))
    return target


def _namespace(sandbox: Sandbox) -> str:
    assert sandbox.record.pause is not None  # a ready sandbox has one
    return f"/proc/{sandbox.record.pause.pid}/ns/user"


def remove(core: Core, container_id: str) -> None:
    """Unmount all that is of a container's layer, and remove the mount points. Twice is fine."""
    mounts.unmount(core.paths.rootfs(container_id))
    folder = core.paths.mapped_mounts(container_id)
    if folder.exists():
        mounts.unmount_below(folder)
        remove_tree(folder)
    mounts.unmount(core.paths.layer(container_id) / "lower")
