"""Volumes that are files: payloads, atomic updates, hostPath checks."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from podling.api import core_v1
from podling.kubelet.config import KubeletConfig
from podling.kubelet.environment import Sources
from podling.kubelet.field_paths import PodFacts
from podling.kubelet.volumes.atomic_writer import write_payload
from podling.kubelet.volumes.host_path import ensure_host_path
from podling.kubelet.volumes.manager import MountFailure, prepare_volumes, remove_pod_dir
from podling.kubelet.volumes.payload import FileEntry, VolumeError, compute_payload

from .builders import UID, container, make_pod

SOURCES = Sources(config_maps={"cm": core_v1.ConfigMap(data={"a": "1", "b": "2"})})


def payload(volume, sources=SOURCES):
    pod = make_pod(metadata={"labels": {"app": "web"}})
    wanted = msgspec.convert({"name": "v", **volume}, core_v1.Volume)
    return compute_payload(pod, wanted, sources=sources, facts=PodFacts())


def test_all_keys_or_those_that_are_listed() -> None:
    assert payload({"configMap": {"name": "cm", "defaultMode": 0o400}}) == {
        "a": FileEntry(content=b"1", mode=0o400),
        "b": FileEntry(content=b"2", mode=0o400),
    }
    items = [{"key": "b", "path": "dir/file", "mode": 0o600}]
    found = payload({"configMap": {"name": "cm", "items": items}})
    assert found == {"dir/file": FileEntry(content=b"2", mode=0o600)}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "x", "path": "x"}]}},
            "references non-existent config key: x",
        ),
        (
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}},
            "invalid path ../x: must be relative and must not contain '..'",
        ),
    ],
)
def test_what_cannot_be_shown_is_told(volume, message) -> None:
    with pytest.raises(VolumeError) as caught:
        payload(volume)
    assert str(caught.value) == message


def test_optional_objects_may_be_missing() -> None:
    assert payload({"configMap": {"name": "none", "optional": True}}) == {}


def test_projections_are_joined() -> None:
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    sources = [{"configMap": {"name": "cm"}}, {"downwardAPI": {"items": [labels]}}]
    found = payload({"projected": {"sources": sources}})
    assert found.keys() == {"a", "b", "labels"}
    assert found["labels"].content == b'app="web"'


def test_files_are_replaced_all_at_once(tmp_path: Path) -> None:
    first = {"a": FileEntry(content=b"1", mode=0o644), "d/b": FileEntry(content=b"2", mode=0o600)}
    assert write_payload(tmp_path, first)
    assert (tmp_path / "a").read_text() == "1"
    assert (tmp_path / "d" / "b").stat().st_mode & 0o777 == 0o600
    assert os.readlink(tmp_path / "a") == "..data/a"
    generation = os.readlink(tmp_path / "..data")
    assert not write_payload(tmp_path, first)
    assert os.readlink(tmp_path / "..data") == generation
    second = {"a": FileEntry(content=b"one", mode=0o644)}
    assert write_payload(tmp_path, second)
    assert (tmp_path / "a").read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["..data", "a", os.readlink(tmp_path / "..data")]
    )


def test_a_write_that_was_cut_short_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "..2020_01_01_00_00_00.torn").mkdir()
    (tmp_path / "..data_tmp").symlink_to("nowhere")
    assert write_payload(tmp_path, {"a": FileEntry(content=b"1", mode=0o644)})
    assert (tmp_path / "a").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("kind", "exists", "message"),
    [
        ("Directory", "file", "is not a directory"),
        ("File", "directory", "is not a file"),
        ("Socket", "file", "is not a socket file"),
        ("CharDevice", "file", "is not a character device"),
        ("BlockDevice", "file", "is not a block device"),
        ("Directory", None, "is not a directory"),
    ],
)
def test_host_paths_are_checked(tmp_path: Path, kind: str, exists: str | None, message: str) -> None:
    path = tmp_path / "x"
    if exists == "file":
        path.touch()
    elif exists == "directory":
        path.mkdir()
    with pytest.raises(VolumeError) as caught:
        ensure_host_path(core_v1.HostPathVolumeSource(path=str(path), type=kind))
    assert str(caught.value) == f"hostPath type check failed: {path} {message}"


def test_host_paths_are_made_where_the_type_says_so(tmp_path: Path) -> None:
    for kind, check in (("DirectoryOrCreate", Path.is_dir), ("FileOrCreate", Path.is_file)):
        path = tmp_path / kind
        ensure_host_path(core_v1.HostPathVolumeSource(path=str(path), type=kind))
        assert check(path)


async def test_a_pods_volumes_are_prepared_and_removed(tmp_path: Path) -> None:
    config = KubeletConfig(node_name="n", node_ip="10.0.0.1", root_dir=tmp_path)
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "cm", "configMap": {"name": "cm"}},
    ]
    pod = make_pod(container(), volumes=volumes)
    prepared = await prepare_volumes(config, pod, sources=SOURCES, facts=PodFacts())
    assert prepared["tmp"].path.stat().st_mode & 0o777 == 0o777
    assert prepared["cm"].read_only
    assert (prepared["cm"].path / "a").read_text() == "1"
    outside = tmp_path / "outside"
    outside.mkdir()
    (prepared["tmp"].path / "link").symlink_to(outside)
    await remove_pod_dir(config, UID)
    await remove_pod_dir(config, UID)
    assert not (tmp_path / "pods" / UID).exists()
    assert outside.is_dir()


async def test_volumes_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    config = KubeletConfig(node_name="n", node_ip="10.0.0.1", root_dir=tmp_path)
    pod = make_pod(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}])
    with pytest.raises(MountFailure) as caught:
        await prepare_volumes(config, pod, sources=SOURCES, facts=PodFacts())
    assert str(caught.value) == (
        'MountVolume.SetUp failed for volume "v" : no volume plugin matched: '
        "volumes of type nfs are not supported by this kubelet"
    )
