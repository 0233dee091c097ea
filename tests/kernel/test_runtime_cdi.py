"""Devices by name: what CDI files say is in the container, and what they do not say is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernel.runtime_local import Local
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

YAML = """
cdiVersion: "0.6.0"
kind: example.com/net
containerEdits:
  env: ["FROM_YAML=yes"]
devices:
- name: one
  containerEdits:
    mounts:
    - hostPath: {file}
      containerPath: /given/file
"""


OWNED = {"fileMode": 0o640, "uid": 7, "gid": 8}


@pytest.fixture
async def spec_dir(local: Local, tmp_path: Path) -> Path:
    """Where files of devices are; a second directory beside it wins."""
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    local.config = replace(local.config, cdi_spec_dirs=(tmp_path / "etc", tmp_path / "run"))
    await local.restart()
    return tmp_path / "etc"


def write(folder: Path, devices: dict[str, Any], *, kind: str = "example.com/gpu", **common: Any) -> None:
    document = {
        "cdiVersion": "0.6.0",
        "kind": kind,
        "containerEdits": common,
        "devices": [{"name": name, "containerEdits": edits} for name, edits in devices.items()],
    }
    (folder / f"{kind.replace('/', '-')}.json").write_text(json.dumps(document))


def asking(*names: str, **annotations: str) -> Callable[[cri.ContainerConfig], None]:
    def change(config: cri.ContainerConfig) -> None:
        config.cdi_devices = [cri.CDIDevice(name=name) for name in names]
        config.annotations = {f"cdi.k8s.io/{key}": value for key, value in annotations.items()}

    return change


async def test_nodes_mounts_variables_and_groups(local: Local, spec_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "library").write_text("library\n")
    node = {"path": "/dev/gpu0", "hostPath": "/dev/full", "permissions": "rw"}
    mount = {
        "hostPath": str(tmp_path / "library"),
        "containerPath": "/usr/lib/gpu.so",
        "options": ["ro", "bind"],
    }
    first = {"deviceNodes": [node], "mounts": [mount], "env": ["WHICH=0"], "additionalGids": [44]}
    by_number = {
        "path": "/dev/gpu1",
        "type": "c",
        "major": 1,
        "minor": 5,
        "fileMode": 0o640,
        "uid": 7,
        "gid": 8,
    }
    write(spec_dir, {"0": first, "1": {"deviceNodes": [by_number]}}, env=["ALL=yes", "OVERRIDE=vendor"])
    script = (
        "echo $WHICH $ALL $OVERRIDE; cat /usr/lib/gpu.so; id -G; echo x > /dev/gpu0; "
        "head -c 2 /dev/gpu1 | busybox od -An -tx1; ls -ln /dev/gpu1"
    )
    change = asking("example.com/gpu=0", "example.com/gpu=1")
    said = await local.output(await local.sandbox(), "sh", "-c", f"exec 2>&1; {script}", change=change)
    variables, library, groups, full, zeros, listed = said.splitlines()
    assert (variables, library, zeros.split()) == ("0 yes vendor", "library", ["00", "00"])
    assert "44" in groups.split()
    assert "No space left on device" in full
    assert listed.startswith("crw-r-----")
    assert listed.split()[2:4] == ["7", "8"]


async def test_yaml_annotations_and_each_name_once(local: Local, spec_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")
    (spec_dir / "net.yaml").write_text(YAML.format(file=tmp_path / "file"))
    change = asking("example.com/net=one", vendor="example.com/net=one")
    script = "cat /given/file; echo $FROM_YAML; grep -c /given/file /proc/self/mountinfo"
    said = await local.output(await local.sandbox(), "sh", "-c", script, change=change)
    assert said.splitlines() == ["here", "yes", "1"]


async def test_what_was_found_wins_over_what_was_configured(local: Local, spec_dir: Path) -> None:
    write(spec_dir, {"0": {"env": ["FROM=etc"]}, "1": {"env": ["OTHER=etc"]}})
    write(spec_dir.parent / "run", {"0": {"env": ["FROM=run"]}})
    change = asking("example.com/gpu=0", "example.com/gpu=1")
    said = await local.output(await local.sandbox(), "sh", "-c", "echo $FROM $OTHER", change=change)
    assert said == "run etc"


async def test_hooks_run_at_their_time(local: Local, spec_dir: Path, tmp_path: Path) -> None:
    """Also those for which crun itself must start and delete the container."""
    names = ("createRuntime", "poststart", "poststop")
    hooks = [
        {"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/{name}"]}
        for name in names
    ]
    write(spec_dir, {"0": {"hooks": hooks}})
    container_id = await local.run(await local.sandbox(), "sleep", "1000", change=asking("example.com/gpu=0"))
    for name in names[:2]:
        assert json.loads((tmp_path / name).read_text())["id"] == container_id
    assert not (tmp_path / "poststop").exists()
    await local.stop(container_id)
    await local.runtime.remove_container(cri.RemoveContainerRequest(container_id=container_id))
    assert json.loads((tmp_path / "poststop").read_text())["id"] == container_id


async def test_in_a_user_namespace(local: Local, spec_dir: Path) -> None:
    write(spec_dir, {"0": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/full"}]}})
    mapping = [cri.IDMapping(host_id=1 << 20, container_id=0, length=65536)]
    config = local.sandbox_config()
    config.linux.security_context.namespace_options.userns_options = cri.UserNamespace(
        mode=cri.NamespaceMode.POD, uids=mapping, gids=mapping
    )
    change = asking("example.com/gpu=0")
    said = await local.output(
        await local.sandbox(config), "sh", "-c", "exec 2>&1; echo x > /dev/gpu0", change=change
    )
    assert "No space left on device" in said


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("example.com/gpu=9", Code.NOT_FOUND, "unresolvable CDI devices example.com/gpu=9"),
        ("example.com/gpu", Code.INVALID_ARGUMENT, "invalid CDI device name 'example.com/gpu'"),
        ("gpu=0", Code.INVALID_ARGUMENT, "invalid CDI device name 'gpu=0'"),
        ("example.com/gpu=../x", Code.INVALID_ARGUMENT, "invalid CDI device name"),
        ("example.com/gone=0", Code.INVALID_ARGUMENT, "/dev/nonexistent"),
    ],
)
async def test_names_that_lead_nowhere(
    local: Local, spec_dir: Path, name: str, code: Code, text: str
) -> None:
    write(spec_dir, {"0": {}})
    write(spec_dir, {"0": {"deviceNodes": [{"path": "/dev/nonexistent"}]}}, kind="example.com/gone")
    with pytest.raises(CRIError, match=text) as caught:
        await local.create(await local.sandbox(), "true", change=asking(name))
    assert caught.value.code is code


@pytest.mark.parametrize(
    "edits",
    [
        {"hooks": [{"hookName": "whenever", "path": "/bin/true"}]},
        {"hooks": [{"hookName": "poststop", "path": "relative"}]},
        {"deviceNodes": [{"path": "dev/x"}]},
        {"deviceNodes": [{"path": "/dev/x", "permissions": "all"}]},
        {"mounts": [{"hostPath": "", "containerPath": "/x"}]},
        {"env": ["NOVALUE"]},
        {"env": "A=B"},
    ],
)
async def test_a_broken_file_is_named_and_hides_no_other(
    local: Local, spec_dir: Path, edits: dict[str, Any]
) -> None:
    write(spec_dir, {"0": edits}, kind="example.com/broken")
    write(spec_dir, {"0": {"env": ["FINE=yes"]}})
    sandbox_id = await local.sandbox()
    with pytest.raises(CRIError, match=r"unresolvable .*failed to load CDI Spec .*example.com-broken.json"):
        await local.create(sandbox_id, "true", change=asking("example.com/broken=0"))
    said = await local.output(sandbox_id, "sh", "-c", "echo $FINE", change=asking("example.com/gpu=0"))
    assert said == "yes"
