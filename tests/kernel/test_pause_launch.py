"""Pause started by our own system calls is what crun makes of the same specification."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.runtime_local import PARENT, Local
from podling.linux.cgroups import Cgroups
from podling.pause.build import launch_path
from podling.runtime import pause_launch
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.launch_script import Script, ScriptError, run

NODE, POD = cri.NamespaceMode.NODE, cri.NamespaceMode.POD
STATUS = (
    "Name Umask Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters "
    "SigBlk SigIgn SigCgt Threads"
)
SYSCTLS = ("net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range", "kernel/shm_rmid_forced")


def unconfined(config: cri.PodSandboxConfig) -> None:
    kind = cri.SecurityProfileType.Unconfined
    config.linux.security_context.seccomp = cri.SecurityProfile(profile_type=kind)


def with_sysctls(config: cri.PodSandboxConfig) -> None:
    config.linux.sysctls = {"net.ipv4.ip_unprivileged_port_start": "99", "kernel.shm_rmid_forced": "1"}


def nothing(_: cri.PodSandboxConfig) -> None:
    """As it is."""


def seen(pid: int) -> dict[str, object]:
    """What there is to see of a pause, without what names this one."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    mounts = [line.split(" - ") for line in (proc / "mountinfo").read_text().splitlines()]
    enter = ["nsenter", f"--target={pid}", "--uts", "--net", "--ipc"]
    sysctls = [subprocess.run([*enter, "cat", f"/proc/sys/{n}"], capture_output=True).stdout for n in SYSCTLS]
    return {
        "status": {name: status.get(name, "").split() for name in STATUS.split()},
        "cmdline": (proc / "cmdline").read_bytes(),
        "links": [os.readlink(proc / name) for name in ("cwd", "root", "exe")],
        "files": {fd: os.readlink(proc / "fd" / fd) for fd in os.listdir(proc / "fd")},
        "mounts": [(left.split()[4:6], right.split()[0]) for left, right in mounts],
        "own namespaces": [n for n in os.listdir(proc / "ns") if not same(pid, n) and "children" not in n],
        "oom": (proc / "oom_score_adj").read_text(),
        "limits": (proc / "limits").read_text(),
        "leads its session": os.getsid(pid) == pid,
        "hostname": subprocess.run([*enter, "hostname"], capture_output=True).stdout,
        "sysctls": sysctls,
    }


def same(pid: int, namespace: str) -> bool:
    return os.readlink(f"/proc/{pid}/ns/{namespace}") == os.readlink(f"/proc/self/ns/{namespace}")


async def pause(local: Local, config: cri.PodSandboxConfig) -> int:
    process = local.runtime.core.sandbox(await local.sandbox(config)).pause
    async with asyncio.timeout(10):  # crun is over before pause has come to its sleep
        while "pause" not in Path(f"/proc/{process.pid}/wchan").read_text() and (  # noqa: ASYNC110
            Path(f"/proc/{process.pid}/syscall").read_text().split()[0] != "34"
        ):
            await asyncio.sleep(0.001)
    return process.pid


@pytest.fixture
def own() -> None:
    if launch_path() is None:
        pytest.skip("no system calls known for this architecture")


@pytest.mark.parametrize("change", [nothing, unconfined, with_sysctls])
@pytest.mark.parametrize("modes", [{}, {"pid": POD}, {"network": NODE, "ipc": NODE, "pid": NODE}])
async def test_same_as_by_crun(
    own: None,
    local: Local,
    modes: dict[str, cri.NamespaceMode],
    change: Callable[[cri.PodSandboxConfig], None],
) -> None:
    if change is with_sysctls and "network" in modes:
        pytest.skip("these would be the node's")
    configs = [local.sandbox_config("web-0", **modes) for _ in range(2)]
    for config in configs:
        change(config)
    ours = seen(await pause(local, configs[0]))
    local.runtime.core.launch = None
    theirs = seen(await pause(local, configs[1]))
    assert ours == theirs


async def test_is_in_its_cgroup_and_goes_with_it(own: None, local: Local) -> None:
    sandbox_id = await local.sandbox()
    core, pid = local.runtime.core, await pause(local, local.sandbox_config())
    record = core.sandbox(sandbox_id).record
    assert core.cgroups.procs(record.cgroup) == [record.pause.pid]
    parents = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" not in parents  # nobody here has to reap it
    os.kill(record.pause.pid, signal.SIGKILL)
    await local.remove_sandbox(sandbox_id)
    assert sandbox_id not in core.cgroups.children(f"{PARENT}/poduid-1")


async def test_a_step_that_fails_is_named(own: None, local: Local) -> None:
    core = local.runtime.core
    script = Script()
    script.write_file("/proc/self/oom_score_adj", "0")
    script.fork(0)
    script.call("chdir", "/nowhere")
    script.call("execve", "/pause", ["/pause"], [])
    with pytest.raises(ScriptError, match=r"chdir\('/nowhere'\): No such file or directory"):
        await run(core.runner, core.launch, script)
    config = local.sandbox_config()
    config.linux.sysctls = {"net.ipv4.ip_unprivileged_port_start": "no number"}
    with pytest.raises(CRIError, match=r"write\(fd, 'no number', 9\): Invalid argument"):
        await local.sandbox(config)
    assert local.leftovers() == []


async def test_a_sysctl_of_the_node_is_refused(local: Local) -> None:
    for name in ("kernel.hostname", "vm.swappiness", "net/../vm.swappiness"):
        config = local.sandbox_config()
        config.linux.sysctls = {name: "1"}
        with pytest.raises(CRIError):
            await local.sandbox(config)
    assert local.leftovers() == []


def test_only_an_ordinary_pause_is_ours() -> None:
    spec = {
        "process": {
            "args": ["/pause"],
            "cwd": "/",
            "env": [],
            "user": {"uid": 1, "gid": 1},
            "capabilities": {},
            "noNewPrivileges": True,
            "oomScoreAdj": 0,
        },
        "root": {"path": "/run/pause", "readonly": True},
        "mounts": [],
        "annotations": {},
        "linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": "/pod/one", "sysctl": {}},
    }
    procs = Cgroups().leaf_files("/pod/one")
    assert pause_launch.steps(spec, procs, "x86_64") is not None
    assert pause_launch.steps(spec, procs, "aarch64") is not None
    assert pause_launch.steps(spec, procs, "riscv64") is None
    for part, more in (
        ("linux", {"namespaces": [{"type": "mount"}, {"type": "user"}]}),
        ("linux", {"namespaces": [{"type": "mount"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]}),
        ("linux", {"seccomp": {}}),
        ("linux", {"sysctl": {"net.core.somaxconn": "1"}}),
        ("process", {"apparmorProfile": "x"}),
        ("process", {"capabilities": {"effective": ["CAP_KILL"]}}),
        ("root", {"readonly": False}),
    ):
        assert pause_launch.steps({**spec, part: {**spec[part], **more}}, procs, "x86_64") is None, more
    assert pause_launch.steps({**spec, "hooks": {}}, procs, "x86_64") is None
