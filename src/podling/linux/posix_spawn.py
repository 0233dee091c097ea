"""`posix_spawn` with a working directory, which `os.posix_spawn` cannot give (`man 3 posix_spawn`).

The child runs on its parent's memory until its exec, so starting a program costs a large process no more than
a small one, and blocks for about half a millisecond.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence

# <spawn.h>
POSIX_SPAWN_SETSIGDEF = 0x04
POSIX_SPAWN_SETSIGMASK = 0x08
POSIX_SPAWN_SETSID = 0x80

OPAQUE_BYTES = 512
"""Room for glibc's posix_spawnattr_t (336) and posix_spawn_file_actions_t (80), and musl's."""
SIGSET_BYTES = 128

_libc = ctypes.CDLL(None, use_errno=True)

# Python ignores these for itself; a child would inherit that.
RESTORED_SIGNALS = (
    *(signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD),
)


def posix_spawn(
    program: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    files: Mapping[int, int],
    cwd: str,
) -> int:
    """Start `program` (a name is looked up on our path) and return its PID; its exec has then succeeded.

    `files` maps the child's descriptors to ours; a source must not be a target too. The child leads a session
    of its own, blocks no signal and ignores none. Raises OSError of the exec or the chdir.
    """
    actions, attributes = (ctypes.create_string_buffer(OPAQUE_BYTES) for _ in range(2))
    _check(_libc.posix_spawn_file_actions_init(actions), program)
    try:
        _check(_libc.posix_spawnattr_init(attributes), program)
        try:
            _describe(actions, attributes, files, cwd)
            pid = ctypes.c_int()
            _check(
                _libc.posix_spawnp(
                    ctypes.byref(pid),
                    os.fsencode(program),
                    actions,
                    attributes,
                    _strings(argv),
                    _strings([f"{name}={value}" for name, value in environment.items()]),
                ),
                program,
            )
            return pid.value
        finally:
            _libc.posix_spawnattr_destroy(attributes)
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)


def _describe(
    actions: ctypes.Array[ctypes.c_char],
    attributes: ctypes.Array[ctypes.c_char],
    files: Mapping[int, int],
    cwd: str,
) -> None:
    for target, source in files.items():
        _check(_libc.posix_spawn_file_actions_adddup2(actions, source, target), cwd)
    _check(_libc.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)), cwd)
    flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID
    _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)), cwd)
    _check(_libc.posix_spawnattr_setsigmask(attributes, _signals(())), cwd)
    _check(_libc.posix_spawnattr_setsigdefault(attributes, _signals(RESTORED_SIGNALS)), cwd)


def _signals(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_char]:
    found = ctypes.create_string_buffer(SIGSET_BYTES)
    _libc.sigemptyset(found)
    for number in numbers:
        _libc.sigaddset(found, int(number))
    return found


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None)


def _check(err: int, what: str) -> None:
    """These functions return the errno instead of setting it."""
    if err:
        raise OSError(err, os.strerror(err), what)
