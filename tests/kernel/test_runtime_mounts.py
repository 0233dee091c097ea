"""Mounts of a container: what comes through them, and what is refused. Seen from both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.runtime_local import Local
from podling.linux import mounts
from podling.linux import syscalls as sc
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

PRIVATE = cri.MountPropagation.PROPAGATION_PRIVATE
FROM_HOST = cri.MountPropagation.PROPAGATION_HOST_TO_CONTAINER
BOTH_WAYS = cri.MountPropagation.PROPAGATION_BIDIRECTIONAL


@pytest.fixture
def shared(local: Local, tmp_path: Path) -> Iterator[Path]:
    """A directory that is a mount others may follow, as / is on a machine that systemd started."""
    folder = tmp_path / "shared"
    folder.mkdir()
    mounts.mount_tmpfs(folder, size_bytes=1 << 20)
    sc.mount("none", folder, flags=sc.MS_SHARED)
    (folder / "sub").mkdir()
    yield folder
    mounts.unmount_below(folder)


def mounting(*wanted: cri.Mount, **security: object) -> Callable[[cri.ContainerConfig], None]:
    def change(config: cri.ContainerConfig) -> None:
        config.mounts = list(wanted)
        for name, value in security.items():
            setattr(config.linux.security_context, name, value)

    return change


def at(source: Path, **fields: object) -> cri.Mount:
    return cri.Mount(container_path="/data", host_path=str(source), **fields)


async def sees(local: Local, container_id: str, path: str) -> bool:
    return (await local.exec(container_id, "test", "-e", path)).exit_code == 0


@pytest.mark.parametrize(("propagation", "follows"), [(PRIVATE, False), (FROM_HOST, True), (BOTH_WAYS, True)])
async def test_mounts_made_later_on_the_node(
    local: Local, shared: Path, propagation: cri.MountPropagation, follows: bool
) -> None:
    change = mounting(at(shared, propagation=propagation))
    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    mounts.mount_tmpfs(shared / "sub", size_bytes=4096)
    (shared / "sub" / "later").touch()
    assert await sees(local, container_id, "/data/sub/later") is follows


@pytest.mark.parametrize(("propagation", "follows"), [(FROM_HOST, False), (BOTH_WAYS, True)])
async def test_mounts_made_later_in_the_container(
    local: Local, shared: Path, propagation: cri.MountPropagation, follows: bool
) -> None:
    change = mounting(at(shared, propagation=propagation), privileged=True)
    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=change)
    done = await local.exec(container_id, "mount", "-t", "tmpfs", "inside", "/data/sub")
    assert done.exit_code == 0, done.stderr
    assert mounts.is_mount_point(shared / "sub") is follows


@pytest.mark.parametrize(
    ("propagation", "text"),
    [(FROM_HOST, "it is not a shared or slave mount"), (BOTH_WAYS, "not a shared mount")],
)
async def test_propagation_needs_a_shared_mount(
    local: Local, tmp_path: Path, propagation: cri.MountPropagation, text: str
) -> None:
    with pytest.raises(CRIError, match=f'path "{tmp_path}" is mounted on .*{text}') as caught:
        await local.create(
            await local.sandbox(), "true", change=mounting(at(tmp_path, propagation=propagation))
        )
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("recursive", [False, True])
async def test_read_only_to_the_bottom(local: Local, shared: Path, recursive: bool) -> None:
    """A read-only mount leaves what is mounted below it as it was, unless that too is asked for."""
    mounts.mount_tmpfs(shared / "sub", size_bytes=4096)
    change = mounting(at(shared, readonly=True, recursive_read_only=recursive))
    script = "echo x > /data/top; echo x > /data/sub/below"
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=change)
    assert "can't create /data/top: Read-only file system" in said
    assert ("can't create /data/sub/below: Read-only file system" in said) is recursive
    assert (shared / "sub" / "below").exists() is not recursive


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (cri.Mount(host_path="/tmp"), "container path '' is empty"),
        (cri.Mount(container_path="/", host_path="/tmp"), "container path '/' is empty"),
        (cri.Mount(container_path="/data"), "neither a host path nor an image"),
        (at(Path("/tmp"), recursive_read_only=True), "recursive read-only mount must be read-only"),
        (
            at(Path("/tmp"), recursive_read_only=True, readonly=True, propagation=FROM_HOST),
            "recursive read-only mount must have private propagation",
        ),
    ],
)
async def test_mounts_that_mean_nothing(local: Local, mount: cri.Mount, text: str) -> None:
    with pytest.raises(CRIError, match=text) as caught:
        await local.create(await local.sandbox(), "true", change=mounting(mount))
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_symlink_of_the_image_does_not_lead_a_mount_out(local: Local, tmp_path: Path) -> None:
    """/work/out -> /etc of the node would be a way to hide the node's files: crun stays in the root."""
    (tmp_path / "file").write_text("inside\n")
    sandbox_id = await local.sandbox()
    container_id = await local.create(
        sandbox_id,
        "cat",
        "/work/out/podling-test",
        change=mounting(cri.Mount(container_path="/work/out/podling-test", host_path=str(tmp_path / "file"))),
    )
    rootfs = local.config.root_dir / "containers" / container_id / "rootfs"
    (rootfs / "work" / "out").symlink_to("/../../../../../../etc")
    await local.start(container_id)
    status = await local.exited(container_id)
    assert status.exit_code == 0
    assert "inside" in Path(status.log_path).read_text()
    assert not Path("/etc/podling-test").exists()
    assert (rootfs / "etc" / "podling-test").exists()


async def test_relative_and_deep_container_paths(local: Local, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")
    change = mounting(cri.Mount(container_path="deep/er/file", host_path=str(tmp_path / "file")))
    assert await local.output(await local.sandbox(), "cat", "/deep/er/file", change=change) == "here"
