"""Pods with a user namespace of their own, seen from inside, from the node and on the disk."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from kernel.runtime_local import Local
from podling.linux.mounts import can_idmap
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

FIRST, LENGTH = 1 << 20, 65536
NS_GET_USERNS = 0xB701  # <linux/nsfs.h>
MAPPING = [cri.IDMapping(host_id=FIRST, container_id=0, length=LENGTH)]

pytestmark = pytest.mark.skipif(not can_idmap(), reason="the kernel has no ID-mapped mounts (mount_setattr)")


def config(local: Local, **modes: cri.NamespaceMode) -> cri.PodSandboxConfig:
    made = local.sandbox_config("web-0", **modes)
    made.linux.security_context.namespace_options.userns_options = cri.UserNamespace(
        mode=cri.NamespaceMode.POD, uids=MAPPING, gids=MAPPING
    )
    return made


def owner(path: str) -> os.stat_result:
    """The user namespace that a namespace belongs to (`man 2 ioctl_nsfs`)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        users = fcntl.ioctl(fd, NS_GET_USERNS)
    finally:
        os.close(fd)
    try:
        return os.fstat(users)
    finally:
        os.close(users)


async def test_root_inside_is_nobody_outside(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local))
    container_id = await local.run(sandbox_id, "sleep", "1000")
    for kind in ("uid_map", "gid_map"):
        said = (await local.exec(container_id, "cat", f"/proc/self/{kind}")).stdout
        assert said.split() == [b"0", b"%d" % FIRST, b"%d" % LENGTH]
    pid = local.runtime.core.container(container_id).record.process.pid
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert fields["Uid"].split() == [str(FIRST)] * 4
    assert fields["Gid"].split() == [str(FIRST)] * 4
    assert (await local.exec(container_id, "id")).stdout == b"uid=0(root) gid=0(root) groups=0(root)\n"
    status = await local.sandbox_status(sandbox_id)
    assert status.linux.namespaces.options.userns_options.uids == MAPPING
    assert status.network.ip.startswith("10.85.")


async def test_namespaces_belong_to_it(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local))
    record = local.runtime.core.sandbox(sandbox_id).record
    users = os.stat(f"/proc/{record.pause.pid}/ns/user")
    assert users.st_ino != os.stat("/proc/self/ns/user").st_ino
    for path in (record.netns, *(f"/proc/{record.pause.pid}/ns/{kind}" for kind in ("net", "ipc", "uts"))):
        assert owner(path).st_ino == users.st_ino, path
    container_id = await local.run(sandbox_id, "sleep", "1000")
    pid = local.runtime.core.container(container_id).record.process.pid
    assert os.stat(f"/proc/{pid}/ns/user").st_ino == users.st_ino
    assert owner(f"/proc/{pid}/ns/pid").st_ino == users.st_ino


async def test_network_works_and_ports_below_1024_are_the_pods(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local))
    container_id = await local.run(sandbox_id, "sh", "-c", "echo hello | nc -l -p 80; sleep 1000")
    script = "until nc -w 5 127.0.0.1 80 </dev/null; do sleep 0.05; done"
    assert (await local.exec(container_id, "sh", "-c", script)).stdout == b"hello\n"
    shown = await local.exec(container_id, "cat", "/proc/sys/net/ipv4/ping_group_range")
    assert shown.stdout.split() == [b"0", b"%d" % (LENGTH - 1)]


async def test_files_of_the_image_keep_their_owners(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local))
    container_id = await local.run(sandbox_id, "sleep", "1000")
    script = "ls -nd /bin/busybox / /etc/passwd /etc/hostname /etc/resolv.conf /dev/shm"
    said = (await local.exec(container_id, "sh", "-c", script)).stdout.decode()
    assert {tuple(line.split()[2:4]) for line in said.splitlines()} == {("0", "0")}
    done = await local.exec(
        container_id, "sh", "-c", "echo x >> /etc/passwd && echo y > /new && echo z > /dev/shm/z"
    )
    assert (done.exit_code, done.stderr) == (0, b"")
    upper = local.config.root_dir / "containers" / container_id / "upper"
    for name in ("etc/passwd", "new"):
        assert (upper / name).stat().st_uid == FIRST
    image = local.runtime.core.images.rootfs_path(local.runtime.core.images.get("busybox"))
    assert (image / "bin/busybox").stat().st_uid == 0


async def test_volumes_are_written_with_the_owners_of_the_pod(local: Local, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "file").write_text("one file\n")
    (tmp_path / "file").chmod(0o600)

    def change(c: cri.ContainerConfig) -> None:
        c.mounts = [
            cri.Mount(container_path=f"/v/{name}", host_path=str(tmp_path / name), **mapped)
            for name, mapped in (
                ("data", {"uid_mappings": MAPPING, "gid_mappings": MAPPING}),
                ("file", {"uid_mappings": MAPPING, "gid_mappings": MAPPING}),
                ("plain", {}),
            )
        ]

    (tmp_path / "plain").mkdir()
    script = "cat /v/file; echo x > /v/data/x; touch /v/plain/x || ls -nd /v/plain"
    said = await local.output(await local.sandbox(config(local)), "sh", "-c", script, change=change)
    assert said.startswith("one file\n")
    assert (tmp_path / "data" / "x").stat().st_uid == 0
    # Nobody asked for this one to be mapped: the node's root is nobody in there.
    assert said.split()[-7:-5] == ["65534", "65534"]


async def test_terminal_user_and_exec(local: Local) -> None:
    def change(c: cri.ContainerConfig) -> None:
        c.tty = True
        c.linux.security_context.run_as_user = 1000

    sandbox_id = await local.sandbox(config(local))
    said = await local.output(
        sandbox_id, "sh", "-c", "id -u; echo > /dev/stdout; ls -n /dev/console", change=change
    )
    assert said.split()[0] == "1000"
    assert "denied" not in said


async def test_shared_pid_namespace(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local, pid=cri.NamespaceMode.POD))
    container_id = await local.run(sandbox_id, "sleep", "1000")
    listed = (await local.exec(container_id, "ps", "-o", "pid,args")).stdout.decode()
    assert ["1", "/pause"] in [line.split() for line in listed.splitlines()]


async def test_limits_and_device_nodes(local: Local) -> None:
    def change(c: cri.ContainerConfig) -> None:
        c.linux.resources = cri.LinuxContainerResources(memory_limit_in_bytes=32 << 20, oom_score_adj=500)
        c.devices = [cri.Device(container_path="/dev/mem2", host_path="/dev/full", permissions="rw")]

    script = "cat /proc/self/oom_score_adj; echo x > /dev/mem2; echo done"
    said = await local.output(await local.sandbox(config(local)), "sh", "-c", script, change=change)
    assert said.split()[0] == "500"
    assert "No space left on device" in said


async def test_found_again_after_a_restart_and_removed(local: Local) -> None:
    sandbox_id = await local.sandbox(config(local))
    container_id = await local.run(sandbox_id, "sleep", "1000")
    await local.restart()
    assert (await local.exec(container_id, "id", "-u")).stdout == b"0\n"
    await local.remove_sandbox(sandbox_id)
    assert local.leftovers() == []


async def test_cancelled_creation_leaves_nothing(local: Local) -> None:
    """At any of its steps: before pause, before its network is pinned, while it is wired, at the end."""
    for delay_s in (0.001, 0.005, 0.01, 0.02, 0.03, 0.04):
        task = asyncio.create_task(local.sandbox(config(local)))
        await asyncio.sleep(delay_s)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        if isinstance(done[0], str):
            await local.remove_sandbox(done[0])
        assert local.leftovers() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mode": cri.NamespaceMode.CONTAINER}, "unsupported mode CONTAINER"),
        ({"mode": cri.NamespaceMode.NODE}, "mode NODE takes no ID mappings"),
        ({"uids": []}, "uid mappings must map 0"),
        ({"gids": [cri.IDMapping(host_id=5, container_id=0)]}, "gid mappings must map 0"),
    ],
)
async def test_what_is_no_user_namespace_is_refused(local: Local, change: dict, text: str) -> None:
    wanted = config(local)
    for name, value in change.items():
        setattr(wanted.linux.security_context.namespace_options.userns_options, name, value)
    with pytest.raises(CRIError, match=text) as caught:
        await local.sandbox(wanted)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_namespaces_of_the_node_and_strangers_are_refused(local: Local) -> None:
    with pytest.raises(CRIError, match="node's network") as caught:
        await local.sandbox(config(local, network=cri.NamespaceMode.NODE))
    assert caught.value.code is Code.INVALID_ARGUMENT
    sandbox_id = await local.sandbox(config(local))
    other = [cri.IDMapping(host_id=7 * LENGTH, container_id=0, length=LENGTH)]

    def stranger(c: cri.ContainerConfig) -> None:
        c.mounts = [cri.Mount(container_path="/x", host_path="/tmp", uid_mappings=other, gid_mappings=other)]

    def user(c: cri.ContainerConfig) -> None:
        c.linux.security_context.run_as_user = LENGTH

    def group(c: cri.ContainerConfig) -> None:
        c.linux.security_context.supplemental_groups = [LENGTH + 5]

    for change, text in (
        (stranger, "mount /x: its ID mappings"),
        (user, f"user {LENGTH} is not mapped"),
        (group, f"group {LENGTH + 5} is not mapped"),
    ):
        with pytest.raises(CRIError, match=text) as caught:
            await local.create(sandbox_id, "true", change=change)
        assert caught.value.code is Code.INVALID_ARGUMENT
