from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from podling.linux.netlink import Netlink
from podling.linux.netns import create_netns, is_netns, open_netns, remove_netns, run_in_netns

OWN = "/proc/thread-self/ns/net"


def test_a_namespace_is_pinned_with_lo_up_and_removed(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "one"
    create_netns(path)
    try:
        assert is_netns(path)
        assert path.stat().st_ino != os.stat(OWN).st_ino
        with Netlink(path) as nl:
            (lo,) = nl.link_list()
            assert lo.name == "lo"
            assert lo.up
            assert {str(a.interface) for a in nl.addr_list("lo")} >= {"127.0.0.1/8"}
    finally:
        remove_netns(path)
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()


def test_removing_twice_or_what_is_no_namespace_is_success(tmp_path: Path):
    path = tmp_path / "one"
    create_netns(path)
    remove_netns(path)
    remove_netns(path)
    path.touch()  # what a machine that lost power leaves
    assert not is_netns(path)
    remove_netns(path)
    assert not path.exists()


def test_an_existing_path_is_never_taken_over(tmp_path: Path):
    path = tmp_path / "one"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        create_netns(path)
    assert path.read_text() == "precious"


def test_calls_run_inside_and_the_callers_thread_stays_outside(tmp_path: Path):
    path = tmp_path / "one"
    create_netns(path)
    try:
        before = os.stat(OWN).st_ino
        assert run_in_netns(path, os.stat, OWN).st_ino == path.stat().st_ino
        assert os.stat(OWN).st_ino == before
        fd = open_netns(path)
        assert run_in_netns(fd, os.stat, OWN).st_ino == path.stat().st_ino
        os.close(fd)
        with pytest.raises(ZeroDivisionError):
            run_in_netns(path, lambda: 1 // 0)
    finally:
        remove_netns(path)


def test_a_missing_namespace_and_a_file_that_is_none_are_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        run_in_netns(tmp_path / "none", os.getpid)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="not a network namespace"):
        run_in_netns(tmp_path / "file", os.getpid)


def test_many_at_once_are_all_different(tmp_path: Path):
    paths = [tmp_path / str(number) for number in range(12)]
    threads = [threading.Thread(target=create_netns, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({path.stat().st_ino for path in paths}) == len(paths)
    finally:
        for path in paths:
            remove_netns(path)
