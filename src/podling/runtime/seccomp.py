"""The RuntimeDefault seccomp profile: the system calls of Docker's and containerd's default.

`seccomp_default.json` lists what is allowed to everyone, what a capability adds, and what an architecture
has of its own. Three calls depend on their arguments: `personality`, `socket` (no AF_VSOCK) and `clone` (no
new namespaces; `clone3`, whose flags a filter cannot see, says ENOSYS so that the C library falls back to
`clone`). All else answers EPERM.

crun would compile a profile with libseccomp for each container, 10 to 20 ms of processor time, into a filter
that tests calls one by one. We hand it a finished filter (its annotation `run.oci.seccomp_bpf_data`), made
once per set of capabilities: a binary search over ranges of numbers, 12 steps at most instead of some 400.
Other OCI runtimes get the same profile as JSON from `to_oci`.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

BPF_ANNOTATION = "run.oci.seccomp_bpf_data"

# <linux/seccomp.h>, <linux/audit.h>
RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000
AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
ARCHITECTURES = {"x86_64": ("x86_64", "x86"), "aarch64": ("aarch64", "arm")}
"""Machine -> what runs on it. x32 is left out: distributions have turned it off, and its calls get EPERM."""

AF_VSOCK = 40
CLONE_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

NEWER_CALLS = {
    "quotactl_fd": 443, "process_mrelease": 448, "futex_waitv": 449, "set_mempolicy_home_node": 450,
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "statmount": 457, "listmount": 458, "mseal": 462, "setxattrat": 463,
    "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
}  # fmt: skip
"""Calls an older libseccomp has no name for. Numbers from 424 on are the same on every architecture."""

# i386 got direct socket and System V IPC calls late (Linux 4.3, 5.1); libseccomp knows them only through the
# multiplexers socketcall and ipc, which are allowed: so are these.
X86_DIRECT = ((359, 373), (393, 402))

# <linux/bpf_common.h>: the classic BPF a filter is made of
LD_ABS, JEQ, JGE, JSET, JA, RET = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
OFFSET_NR, OFFSET_ARCH = 0, 4
ALLOW, DENY, NO_SUCH_CALL = RET_ALLOW, RET_ERRNO | errno.EPERM, RET_ERRNO | errno.ENOSYS

Instruction = tuple[int, int, int, int]  # code, jt, jf, k
Program = list[Instruction]


class Profile(msgspec.Struct, frozen=True):
    """seccomp_default.json"""

    allow: list[str]
    capabilities: dict[str, list[str]]
    architectures: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Call:
    """What happens to one range of system call numbers."""

    first: int
    last: int
    program: tuple[Instruction, ...]


@cache
def load_profile() -> Profile:
    text = Path(__file__).with_name("seccomp_default.json").read_bytes()
    return msgspec.json.decode(text, type=Profile)


def allowed_names(capabilities: frozenset[str], architecture: str) -> set[str]:
    """Every call that is allowed whatever its arguments."""
    profile = load_profile()
    names = {*profile.allow, *profile.architectures.get(architecture, ())} - {"personality"}
    for capability, more in profile.capabilities.items():
        if capability in capabilities:
            names.update(more)
    return names


@cache
def filter_annotation(capabilities: frozenset[str]) -> str | None:
    """The compiled default for a process with these capabilities, in base64 as crun wants it.

    None when this machine cannot compile it (no libseccomp, an architecture unknown here): use `to_oci`.
    """
    architectures = ARCHITECTURES.get(platform.machine())
    numbers = Numbers.load()
    if architectures is None or numbers is None:
        return None
    return base64.b64encode(assemble(compile_filter(capabilities, architectures, numbers))).decode()


class Numbers:
    """System call numbers by name and architecture, from libseccomp (which crun needs as well)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @classmethod
    def load(cls) -> Numbers | None:
        try:
            return cls(ctypes.CDLL("libseccomp.so.2"))
        except OSError:
            return None

    def of(self, name: str, architecture: str) -> int | None:
        """None when the architecture has no such call."""
        token = ctypes.c_uint32(AUDIT_ARCH[architecture])
        number = int(self._library.seccomp_syscall_resolve_name_arch(token, name.encode()))
        return number if number >= 0 else NEWER_CALLS.get(name)


def compile_filter(capabilities: frozenset[str], architectures: Sequence[str], numbers: Numbers) -> Program:
    """The whole filter; the first architecture is the machine's own and is tested first."""
    sections = [(AUDIT_ARCH[a], _section(a, capabilities, numbers)) for a in architectures]
    program: Program = [(LD_ABS, 0, 0, OFFSET_ARCH)]
    for token, section in sections:
        program += [(JEQ, 1, 0, token), (JA, 0, 0, len(section)), *section]
    # Another architecture's calls would be judged by the wrong numbers.
    return [*program, (RET, 0, 0, RET_KILL_PROCESS)]


def _section(architecture: str, capabilities: frozenset[str], numbers: Numbers) -> Program:
    calls: dict[int, tuple[Instruction, ...]] = {}
    for name in allowed_names(capabilities, architecture):
        if (number := numbers.of(name, architecture)) is not None:
            calls[number] = _returns(ALLOW)
    if architecture == "x86":
        for first, last in X86_DIRECT:
            calls.update(dict.fromkeys(range(first, last + 1), _returns(ALLOW)))
    for name, program in _by_argument(capabilities).items():
        number = numbers.of(name, architecture)
        if number is not None and number not in calls:
            calls[number] = program
    return [(LD_ABS, 0, 0, OFFSET_NR), *_search(_ranges(calls))]


def _by_argument(capabilities: frozenset[str]) -> dict[str, tuple[Instruction, ...]]:
    low = _argument_offset
    personality = [
        (JEQ, 0, 1, value) if step % 2 == 0 else (RET, 0, 0, ALLOW)
        for value in PERSONALITIES
        for step in range(2)
    ]
    programs: dict[str, tuple[Instruction, ...]] = {
        "personality": ((LD_ABS, 0, 0, low(0)), *personality, *_returns(DENY)),
        "socket": ((LD_ABS, 0, 0, low(0)), (JEQ, 0, 1, AF_VSOCK), *_returns(DENY), *_returns(ALLOW)),
    }
    if "CAP_SYS_ADMIN" not in capabilities:
        no_namespaces = (JSET, 0, 1, CLONE_NAMESPACES)
        programs["clone"] = ((LD_ABS, 0, 0, low(0)), no_namespaces, *_returns(DENY), *_returns(ALLOW))
        programs["clone3"] = _returns(NO_SUCH_CALL)
    return programs


def _argument_offset(index: int) -> int:
    """Of the low half of an argument in `struct seccomp_data`; the machines known here are little-endian."""
    return 16 + 8 * index


def _returns(action: int) -> tuple[Instruction, ...]:
    return ((RET, 0, 0, action),)


def _ranges(calls: dict[int, tuple[Instruction, ...]]) -> list[Call]:
    """Neighbours with the same fate as one range, and the gaps between them as ranges that are denied."""
    found: list[Call] = []
    expected = 0
    for number in sorted(calls):
        if number > expected:
            found.append(Call(expected, number - 1, _returns(DENY)))
        if found and found[-1].program == calls[number]:
            found[-1] = Call(found[-1].first, number, found[-1].program)
        else:
            found.append(Call(number, number, calls[number]))
        expected = number + 1
    return [*found, Call(expected, 0xFFFFFFFF, _returns(DENY))]


def _search(ranges: Sequence[Call]) -> Program:
    """A balanced tree of comparisons. A conditional jump reaches 255 instructions, `JA` any number."""
    if len(ranges) == 1:
        return list(ranges[0].program)
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    border = ranges[middle].first
    if len(below) <= 255:
        return [(JGE, len(below), 0, border), *below, *above]
    return [(JGE, 0, 1, border), (JA, 0, 0, len(below)), *below, *above]


def assemble(program: Program) -> bytes:
    """`struct sock_filter[]`."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def to_oci(capabilities: frozenset[str], machine: str | None = None) -> dict[str, Any]:
    """The same profile as `linux.seccomp` of the OCI runtime spec."""
    architectures = ARCHITECTURES.get(machine or platform.machine(), ())
    names = sorted(allowed_names(capabilities, architectures[0] if architectures else ""))
    calls: list[dict[str, Any]] = [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    calls += [_when("personality", "SCMP_CMP_EQ", value) for value in PERSONALITIES]
    calls.append(_when("socket", "SCMP_CMP_NE", AF_VSOCK))
    if "CAP_SYS_ADMIN" not in capabilities:
        calls.append(_when("clone", "SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES))
        calls.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": [f"SCMP_ARCH_{a.upper()}" for a in architectures],
        "syscalls": calls,
    }


def _when(name: str, operator: str, value: int) -> dict[str, Any]:
    argument = {"index": 0, "value": value, "op": operator}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}
