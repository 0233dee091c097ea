"""All tests run in a network namespace of their own with no way out: no cluster address ever leaves.

Before anything is collected the whole pytest process moves into a fresh namespace in which only `lo` is up;
what it starts inherits that. Without root this is not possible: then tests marked `kernel` and `e2e` are
skipped, and what is left sends no packet.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.linux import syscalls


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() == 0 and not config.option.collectonly:
        # On the main thread, before any other exists: every thread and child follows.
        syscalls.unshare(syscalls.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The fast ones first; e2e last, because its cluster stays up to the end of the session and with it
    # links and addresses that kernel tests make for themselves.
    items.sort(key=lambda item: FOLDERS.index(_folder(item)))
    for item in items:
        folder = _folder(item)
        if folder in ("kernel", "e2e"):
            item.add_marker(folder)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts, cgroups"))


FOLDERS = ("unit", "kernel", "e2e")


def _folder(item: pytest.Item) -> str:
    return Path(item.path).relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's kubeconfig."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(tmp_path_factory.mktemp("kube") / "config"))
        patch.delenv("PODLING_NAME", raising=False)
        yield
