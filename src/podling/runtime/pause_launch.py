"""Pause without an OCI runtime: its specification as a list of system calls.

A pause needs little of what crun does, and crun takes 5 to 15 ms for it: libraries, JSON, a cgroup in a dozen
hierarchies, devices, masks, state on disk. What is left are ninety system calls, made by `pause/launch.c` in
about two milliseconds. `steps` knows the specification of an ordinary pause and nothing else: for any other
(user namespaces, a seccomp profile to be compiled, sysctls that are not the pod's own) it returns None, and
crun is to start it. What comes out is the same; `tests/kernel/test_pause_launch.py` compares the two.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from podling.linux import syscalls as sc
from podling.runtime.launch_script import MAY_FAIL, RESULT, SCRIPT_FD, Filter, Script
from podling.runtime.seccomp import BPF_ANNOTATION

CLONE_FLAGS = {
    "mount": sc.CLONE_NEWNS, "network": sc.CLONE_NEWNET, "uts": sc.CLONE_NEWUTS, "ipc": sc.CLONE_NEWIPC,
    "pid": sc.CLONE_NEWPID,
}  # fmt: skip
"""OCI namespace type -> flag."""

IPC_SYSCTLS = ("kernel.sem", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.shm", "fs.mqueue.")
"""Of the IPC namespace, as crun and runc know them; `net.` is of the network's."""

# <linux/prctl.h>, <linux/capability.h>, <linux/keyctl.h>, <linux/seccomp.h>
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1

Spec = Mapping[str, Any]

SPEC_KEYS = {"ociVersion", "process", "root", "mounts", "annotations", "linux", "hostname"}
PROCESS_KEYS = {"args", "cwd", "env", "user", "capabilities", "noNewPrivileges", "oomScoreAdj"}
LINUX_KEYS = {"namespaces", "cgroupsPath", "sysctl"}


def steps(spec: Spec, entrances: Iterable[Path], machine: str | None = None) -> Script | None:
    """The system calls that start this pause; None when that takes an OCI runtime.

    `entrances`: of its cgroup, a file for each hierarchy (`Cgroups.leaf_files`).
    """
    if not _is_ordinary(spec):
        return None
    try:
        script = Script(machine)
    except KeyError:
        return None
    linux, process = spec["linux"], spec["process"]
    for path in entrances:
        script.write_file(str(path), "0")
    script.write_file("/proc/self/oom_score_adj", str(process["oomScoreAdj"]))
    new = 0
    for namespace in linux["namespaces"]:
        if "path" in namespace:
            script.open(namespace["path"], os.O_RDONLY)
            script.call("setns", RESULT, CLONE_FLAGS[namespace["type"]])
            script.call("close", RESULT)
        else:
            new |= CLONE_FLAGS[namespace["type"]]
    script.fork(new)
    # The script stays mapped until the exec. Before Linux 5.9 there is nothing but its own to close.
    script.call("close_range", SCRIPT_FD, 0xFFFFFFFF, 0, flags=MAY_FAIL)
    script.call("close", SCRIPT_FD, flags=MAY_FAIL)
    _in_the_namespaces(script, spec)
    _give_up_rights(script, spec)
    script.call("execve", process["args"][0], process["args"], process["env"])
    return script


def _is_ordinary(spec: Spec) -> bool:
    """Whether every word of it is one that `steps` acts on."""
    linux, process = spec["linux"], spec["process"]
    known = set(spec) <= SPEC_KEYS and set(process) <= PROCESS_KEYS and set(linux) <= LINUX_KEYS
    if not known or spec["mounts"] or process["capabilities"] or not process["noNewPrivileges"]:
        return False
    kinds = {namespace["type"]: namespace.get("path") for namespace in linux["namespaces"]}
    if not kinds.keys() <= CLONE_FLAGS.keys() or "mount" not in kinds or not spec["root"]["readonly"]:
        return False
    if any(path and kind != "network" for kind, path in kinds.items()):
        return False
    if "hostname" in spec and "uts" not in kinds:
        return False
    return all(_is_of_the_pod(name, kinds) for name in linux["sysctl"])


def _is_of_the_pod(sysctl: str, kinds: Mapping[str, Any]) -> bool:
    """Any other would be the node's: crun refuses it, and says so."""
    if "/" in sysctl or ".." in sysctl:
        return False
    if sysctl.startswith("net."):
        return "network" in kinds
    return "ipc" in kinds and sysctl.startswith(IPC_SYSCTLS)


def _in_the_namespaces(script: Script, spec: Spec) -> None:
    script.call("setsid")
    if "hostname" in spec:
        script.call("sethostname", spec["hostname"], len(os.fsencode(spec["hostname"])))
    for name, value in spec["linux"]["sysctl"].items():
        script.write_file(f"/proc/sys/{name.replace('.', '/')}", value)
    root = spec["root"]["path"]
    # What is mounted here must not show on the node, nor the node's later mounts here.
    script.call("mount", None, "/", None, sc.MS_REC | sc.MS_PRIVATE, None)
    script.call("mount", root, root, None, sc.MS_BIND, None)
    script.call("mount", None, root, None, sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY, None)
    script.call("chdir", root)
    # The old root comes to lie over the new one, and is taken away (`man 2 pivot_root`).
    script.call("pivot_root", ".", ".")
    script.call("umount2", ".", sc.MNT_DETACH)
    script.call("chdir", spec["process"]["cwd"])


def _give_up_rights(script: Script, spec: Spec) -> None:
    # Not the agent's keys. A user's quota of keyrings may be used up; then it has none of its own.
    script.call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None, flags=MAY_FAIL)
    for capability in range(last_capability() + 1):
        script.call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    user = spec["process"]["user"]
    groups = user.get("additionalGids", [])
    script.call("setgroups", len(groups), struct.pack(f"={len(groups)}I", *groups))
    script.call("setresgid", *[user["gid"]] * 3)
    script.call("setresuid", *[user["uid"]] * 3)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    script.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    script.call("capset", header, bytes(24))
    script.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if program := spec["annotations"].get(BPF_ANNOTATION):
        script.call("seccomp", SECCOMP_SET_MODE_FILTER, 0, Filter(base64.b64decode(program)))


@cache
def last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())
