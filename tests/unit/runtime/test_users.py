from __future__ import annotations

from pathlib import Path

import pytest

from podling.runtime.users import UnknownUserError, User, UserRequest, resolve


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:1000:1001::/:\n# c:x:5:5::\nodd:x:abc:1::/:\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nweb:x:1001:\nextra:x:2000:other,web\nmore:x:2001:web\n")
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "uid", "gid", "groups"),
    [
        (UserRequest(), 0, 0, (0,)),
        (UserRequest(image_user="web"), 1000, 1001, (1001, 2000, 2001)),
        (UserRequest(image_user="1000"), 1000, 1001, (1001, 2000, 2001)),
        (UserRequest(image_user="1000:2000"), 1000, 2000, (2000, 2001)),
        (UserRequest(image_user="web:extra"), 1000, 2000, (2000, 2001)),
        (UserRequest(image_user="4711"), 4711, 0, (0,)),
        (UserRequest(image_user="web", uid=7), 7, 0, (0,)),
        (UserRequest(image_user="web:extra", uid=1000), 1000, 1001, (1001, 2000, 2001)),
        (UserRequest(username="web", gid=3), 1000, 3, (3, 2000, 2001)),
        (UserRequest(uid=1000, groups=[9], merge_image_groups=False), 1000, 1001, (9, 1001)),
    ],
)
def test_resolution(rootfs: Path, wanted: UserRequest, uid: int, gid: int, groups: tuple[int, ...]) -> None:
    assert resolve(rootfs, wanted) == User(uid=uid, gid=gid, groups=groups)


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("web:ghosts", "unable to find group ghosts: no matching entries in group file"),
        ("odd", "unable to find user odd: no matching entries in passwd file"),
    ],
)
def test_unknown_names(rootfs: Path, user: str, text: str) -> None:
    with pytest.raises(UnknownUserError, match=text):
        resolve(rootfs, UserRequest(image_user=user))


def test_image_without_files_knows_numbers_only(tmp_path: Path) -> None:
    assert resolve(tmp_path, UserRequest(image_user="12:34")) == User(uid=12, gid=34, groups=(34,))
    with pytest.raises(UnknownUserError):
        resolve(tmp_path, UserRequest(image_user="web"))


def test_symlinks_stay_in_the_image(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("spy:x:1:1::/:\n")
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    for target in (outside, Path("../../outside")):
        (rootfs / "etc/passwd").symlink_to(target)
        with pytest.raises(UnknownUserError):
            resolve(rootfs, UserRequest(image_user="spy"))
        (rootfs / "etc/passwd").unlink()


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    import os

    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    with pytest.raises(UnknownUserError):
        resolve(tmp_path, UserRequest(image_user="web"))
