from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from podling.cni.cache import Attachment, ResultCache

ENTRY = Attachment(
    network="podling",
    container_id="abc-def",
    ifname="eth0",
    netns="/run/netns/x",
    config=b'{"name": "podling"}',
    cni_args=(("K8S_POD_NAME", "nginx"),),
    capability_args={"portMappings": [{"hostPort": 80}]},
    result={"cniVersion": "1.0.0"},
)


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "results")


def test_the_file_is_the_reference_librarys(cache: ResultCache, tmp_path: Path):
    cache.save(ENTRY)
    path = tmp_path / "results" / "podling-abc-def-eth0"
    assert json.loads(path.read_text()) == {
        "kind": "cniCacheV1",
        "containerId": "abc-def",
        "config": base64.b64encode(ENTRY.config).decode(),
        "ifName": "eth0",
        "networkName": "podling",
        "netns": "/run/netns/x",
        "cniArgs": [["K8S_POD_NAME", "nginx"]],
        "capabilityArgs": {"portMappings": [{"hostPort": 80}]},
        "result": {"cniVersion": "1.0.0"},
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_entries_are_found_by_container(cache: ResultCache):
    cache.save(ENTRY)
    assert cache.load("podling", "abc-def", "eth0") == ENTRY
    assert cache.find("abc-def", "eth0") == [ENTRY]
    assert cache.find("def", "eth0") == []  # its file name ends the same
    assert cache.find("abc-def", "eth1") == []
    assert cache.all() == [ENTRY]


def test_removing_twice_is_fine(cache: ResultCache):
    cache.save(ENTRY)
    for _ in range(2):
        cache.remove("podling", "abc-def", "eth0")
    assert cache.all() == []


def test_nothing_and_broken_entries_are_absent(cache: ResultCache, tmp_path: Path):
    assert cache.find("abc-def", "eth0") == []
    assert cache.all() == []
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "podling-abc-def-eth0").write_text("{")
    (tmp_path / "results" / "podling-x-eth0").write_text('{"kind": "other"}')
    assert cache.find("abc-def", "eth0") == []
    assert cache.all() == []


def test_what_a_killed_save_left_can_be_removed(cache: ResultCache, tmp_path: Path):
    cache.remove_drafts("abc-def", "eth0")  # no directory yet
    cache.save(ENTRY)
    draft = tmp_path / "results" / ".podling-abc-def-eth0.draft"
    draft.write_text("{")
    cache.remove_drafts("abc-def", "eth1")
    assert draft.exists()
    cache.remove_drafts("abc-def", "eth0")
    assert not draft.exists()
    assert cache.find("abc-def", "eth0") == [ENTRY]
