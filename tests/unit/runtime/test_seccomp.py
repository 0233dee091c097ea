"""The compiled filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import errno
import platform

import pytest

from podling.runtime import seccomp
from podling.runtime.seccomp import AUDIT_ARCH, Numbers, Program

NONE: frozenset[str] = frozenset()


TABLE = {"read": 0, "write": 1, "open": 2, "socket": 41, "clone": 56, "personality": 135, "clone3": 435}
TABLE |= {"mount": 165, "chroot": 161, "bpf": 321}


class Names:
    """Numbers from a table: the calls of x86_64 that the tests look at."""

    def of(self, name: str, architecture: str) -> int | None:
        return TABLE.get(name)


def verdict(program: Program, architecture: str, number: int, *arguments: int) -> tuple[int, int]:
    """(action, instructions executed)"""
    data = {seccomp.OFFSET_NR: number, seccomp.OFFSET_ARCH: AUDIT_ARCH.get(architecture, 1)}
    data |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate((*arguments, *[0] * 6)[:6])}
    at = value = steps = 0
    while True:
        code, if_true, if_false, k = program[at]
        at, steps = at + 1, steps + 1
        if code == seccomp.LD_ABS:
            value = data[k]
        elif code == seccomp.JA:
            at += k
        elif code == seccomp.RET:
            return k, steps
        else:
            tests = {seccomp.JEQ: value == k, seccomp.JGE: value >= k, seccomp.JSET: bool(value & k)}
            at += if_true if tests[code] else if_false


def compiled(capabilities: frozenset[str] = NONE) -> Program:
    return seccomp.compile_filter(capabilities, ("x86_64",), Names())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "arguments", "action"),
    [
        (0, (), seccomp.ALLOW),
        (2, (), seccomp.ALLOW),
        (3, (), seccomp.DENY),
        (99999, (), seccomp.DENY),
        (165, (), seccomp.DENY),
        (41, (2,), seccomp.ALLOW),
        (41, (40,), seccomp.DENY),
        (56, (0x11,), seccomp.ALLOW),
        (56, (0x10000000,), seccomp.DENY),
        (135, (0,), seccomp.ALLOW),
        (135, (0x20008,), seccomp.ALLOW),
        (135, (5,), seccomp.DENY),
        (435, (), seccomp.RET_ERRNO | errno.ENOSYS),
    ],
)
def test_default(number: int, arguments: tuple[int, ...], action: int) -> None:
    assert verdict(compiled(), "x86_64", number, *arguments)[0] == action


def test_capabilities_add_calls() -> None:
    program = compiled(frozenset({"CAP_SYS_ADMIN"}))
    for number in (165, 56, 435, 321):
        assert verdict(program, "x86_64", number, 0x10000000)[0] == seccomp.ALLOW
    assert verdict(program, "x86_64", 161)[0] == seccomp.DENY
    assert verdict(compiled(frozenset({"CAP_SYS_CHROOT"})), "x86_64", 161)[0] == seccomp.ALLOW


def test_foreign_architecture_is_killed() -> None:
    assert verdict(compiled(), "other", 0)[0] == seccomp.RET_KILL_PROCESS


def test_long_jumps_reach_the_right_instruction() -> None:
    scattered = {number: seccomp._returns(seccomp.ALLOW) for number in range(0, 3000, 3)}
    program = [(seccomp.LD_ABS, 0, 0, 0), *seccomp._search(seccomp._ranges(scattered))]
    for number in range(3001):
        wanted = seccomp.ALLOW if number in scattered else seccomp.DENY
        got, steps = verdict(program, "x86_64", number)
        assert got == wanted
        assert steps < 30
    assert all(if_true < 256 and if_false < 256 for _, if_true, if_false, _ in program)


@pytest.mark.skipif(
    Numbers.load() is None or platform.machine() not in seccomp.ARCHITECTURES, reason="no libseccomp here"
)
def test_real_numbers_give_a_short_search() -> None:
    numbers = Numbers.load()
    assert numbers is not None
    machine = platform.machine()
    program = seccomp.compile_filter(NONE, seccomp.ARCHITECTURES[machine], numbers)
    allowed = {numbers.of(name, machine) for name in seccomp.allowed_names(NONE, machine)}
    for number in range(600):
        action, steps = verdict(program, machine, number)
        assert steps <= 16
        if number in allowed:
            assert action == seccomp.ALLOW
    assert len(program) < 4096  # BPF_MAXINSNS


def test_document_for_other_runtimes_says_the_same() -> None:
    document = seccomp.to_oci(NONE, "x86_64")
    assert document["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert document["syscalls"][-1] == {
        "names": ["clone3"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.ENOSYS,
    }
    assert "mount" not in document["syscalls"][0]["names"]
    assert "mount" in seccomp.to_oci(frozenset({"CAP_SYS_ADMIN"}), "x86_64")["syscalls"][0]["names"]
