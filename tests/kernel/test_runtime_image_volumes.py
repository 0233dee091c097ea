"""Images mounted as volumes: what is in them, what may be done with it, and that they stay meanwhile."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from kernel.runtime_local import IMAGE, Local
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.oci import RunConfig

VOLUME = "localhost/models:1"


@pytest.fixture
def volume(local: Local, tmp_path: Path) -> cri.ImageSpec:
    """An image with a file, a program, a directory and symlinks that would like to lead out of it."""
    root = tmp_path / "rootfs"
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "file").write_text("weights\n")
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "inside").symlink_to("/dir")
    (root / "outside").symlink_to("/../../../../../../../../../../etc")
    with tarfile.open(tmp_path / "volume.tar", "w") as tar:
        tar.add(root, arcname=".")
    store = local.runtime.core.images
    if store.resolve(VOLUME) is None:
        import_rootfs(store, tmp_path / "volume.tar", VOLUME, config=RunConfig())
    return cri.ImageSpec(image=VOLUME)


def mounting(image: cri.ImageSpec, **fields: object):
    def change(config: cri.ContainerConfig) -> None:
        config.mounts = [cri.Mount(container_path="/models", image=image, **{"readonly": True, **fields})]

    return change


async def test_files_are_there_read_only_and_do_not_run(local: Local, volume: cri.ImageSpec) -> None:
    script = (
        "cat /models/dir/file; echo x > /models/new; /models/run.sh; grep ' /models ' /proc/self/mountinfo"
    )
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=mounting(volume))
    assert said.startswith("weights\n")
    assert "Read-only file system" in said
    assert "Permission denied" in said
    mount = next(line for line in said.splitlines() if " /models " in line)
    options = mount.split()[5].split(",")
    assert {"ro", "noexec"} <= set(options)


@pytest.mark.parametrize("path", ["dir", "/dir/", "inside", "./dir/../dir"])
async def test_a_part_of_it(local: Local, volume: cri.ImageSpec, path: str) -> None:
    change = mounting(volume, image_sub_path=path)
    assert await local.output(await local.sandbox(), "cat", "/models/file", change=change) == "weights"


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"readonly": False}, Code.INVALID_ARGUMENT, "readonly must be true"),
        ({"host_path": "/tmp"}, Code.INVALID_ARGUMENT, "hostpath must be empty"),
        ({"image": cri.ImageSpec()}, Code.INVALID_ARGUMENT, "image not specified"),
        ({"image": cri.ImageSpec(image="localhost/absent:1")}, Code.NOT_FOUND, "localhost/absent:1"),
        ({"image_sub_path": "nowhere"}, Code.NOT_FOUND, "No such file or directory"),
        ({"image_sub_path": "outside"}, Code.NOT_FOUND, "No such file or directory"),
        ({"image_sub_path": "../../../etc"}, Code.NOT_FOUND, "No such file or directory"),
        ({"image_sub_path": "dir/file"}, Code.INVALID_ARGUMENT, "only directory subpath is supported"),
    ],
)
async def test_what_cannot_be_mounted(
    local: Local, volume: cri.ImageSpec, fields: dict[str, object], code: Code, text: str
) -> None:
    mount = cri.Mount(container_path="/models", **{"readonly": True, "image": volume, **fields})
    with pytest.raises(CRIError, match=f"ImageVolumeMountFailed: mount /models: .*{text}") as caught:
        await local.create(
            await local.sandbox(), "true", change=lambda config: setattr(config, "mounts", [mount])
        )
    assert caught.value.code is code


async def test_image_stays_while_it_is_mounted(local: Local, volume: cri.ImageSpec) -> None:
    sandbox_id = await local.sandbox()
    await local.run(sandbox_id, "sleep", "1000", change=mounting(volume))
    remove = cri.RemoveImageRequest(image=volume)
    with pytest.raises(CRIError, match="is being used by a container"):
        await local.runtime.remove_image(remove)
    await local.restart()
    with pytest.raises(CRIError, match="is being used by a container"):
        await local.runtime.remove_image(remove)
    await local.remove_sandbox(sandbox_id)
    await local.runtime.remove_image(remove)
    status = await local.runtime.image_status(cri.ImageStatusRequest(image=volume))
    assert status.image is None


async def test_in_a_user_namespace_its_files_are_roots(local: Local, volume: cri.ImageSpec) -> None:
    mapping = [cri.IDMapping(host_id=1 << 20, container_id=0, length=65536)]
    config = local.sandbox_config()
    config.linux.security_context.namespace_options.userns_options = cri.UserNamespace(
        mode=cri.NamespaceMode.POD, uids=mapping, gids=mapping
    )
    change = mounting(volume, image_sub_path="dir")
    said = await local.output(await local.sandbox(config), "ls", "-n", "/models/file", change=change)
    assert said.split()[2:4] == ["0", "0"]


async def test_by_id_too(local: Local, volume: cri.ImageSpec) -> None:
    image = local.runtime.core.images.get(VOLUME)
    change = mounting(cri.ImageSpec(image=image.id, user_specified_image=VOLUME))
    assert await local.output(await local.sandbox(), "cat", "/models/dir/file", change=change) == "weights"
    assert local.runtime.core.images.get(IMAGE).id != image.id
