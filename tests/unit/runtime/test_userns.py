from __future__ import annotations

import pytest

from podling.runtime import userns
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

TWO = [
    cri.IDMapping(host_id=100000, container_id=0, length=10),
    cri.IDMapping(host_id=200000, container_id=10, length=5),
]


@pytest.mark.parametrize(
    ("wanted", "found"), [(0, 100000), (9, 100009), (10, 200000), (14, 200004), (15, None)]
)
def test_host_id(wanted: int, found: int | None) -> None:
    assert userns.host_id(TWO, wanted) == found


def test_last_gid_stops_at_a_gap() -> None:
    assert userns.last_gid(cri.UserNamespace(gids=TWO)) == 14
    gap = [TWO[0], cri.IDMapping(host_id=5, container_id=11, length=5)]
    assert userns.last_gid(cri.UserNamespace(gids=gap)) == 9


def test_without_one_root_is_root() -> None:
    assert userns.root(None) == (0, 0)
    assert userns.of(cri.NamespaceOption()) is None
    assert (
        userns.of(cri.NamespaceOption(userns_options=cri.UserNamespace(mode=cri.NamespaceMode.NODE))) is None
    )


def test_mapped_mount_without_a_user_namespace_is_refused() -> None:
    with pytest.raises(CRIError, match="mount /x") as caught:
        userns.check_mount(None, cri.Mount(container_path="/x", uid_mappings=TWO, gid_mappings=TWO))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert not userns.check_mount(None, cri.Mount(container_path="/x"))
