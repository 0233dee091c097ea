import errno

import pytest

from podling.machine.features import MissingFeatureError, link_kind, overlay_on


def test_a_kernel_without_a_link_kind_is_told_by_its_name() -> None:
    with (
        pytest.raises(MissingFeatureError, match='no "veth" links: it needs CONFIG_VETH'),
        link_kind("veth", "CONFIG_VETH"),
    ):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_other_refusals_of_a_link_stay_what_they_are() -> None:
    with pytest.raises(FileExistsError), link_kind("veth", "CONFIG_VETH"):
        raise OSError(errno.EEXIST, "File exists")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENODEV, "CONFIG_OVERLAY_FS"), (errno.EINVAL, "/x lies on a file system that cannot hold")],
)
def test_an_overlay_that_cannot_be_mounted_says_why(code: int, words: str) -> None:
    with pytest.raises(MissingFeatureError, match=words), overlay_on("/x"):
        raise OSError(code, "")
