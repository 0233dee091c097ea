"""Programs as sealed memory files.

An OCI runtime must not be overwritten by a container it starts (CVE-2019-5736, through /proc/PID/exe). Both
runc and crun therefore copy their own binary and execute themselves a second time, at each start, unless
they already run from a memory file sealed against writing: "an admin could bind-mount a sealed memfd to
/usr/bin/runc to allow re-use" (runc, cloned_binary.c). One such copy a process saves half of every start of
theirs.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

# <linux/fcntl.h>; exactly these are looked for
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MFD_EXEC = 0x0010  # <linux/memfd.h>, Linux 6.3: where vm.memfd_noexec is set, execution must be asked for


def sealed_copy(program: str) -> int:
    """A descriptor of a read-only copy of `program`; execute it as `/proc/PID/fd/N`. Raises OSError."""
    content = Path(program).read_bytes()
    fd = _memory_file(os.path.basename(program))
    try:
        os.write(fd, content)
        if os.fstat(fd).st_size != len(content):
            raise OSError(errno.EIO, "short write", program)
        os.fchmod(fd, 0o555)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_EXEC)
    except OSError as err:
        if err.errno != errno.EINVAL:  # an older kernel, on which every memory file may be executed
            raise
        return os.memfd_create(name, flags)
