"""TUN devices: links whose packets a program reads and writes (`<linux/if_tun.h>`).

The device is there as long as its descriptor, or persistently when that was asked for with TUNSETPERSIST.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE
IFF_TUN, IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN_EXCL = 0x0001, 0x0002, 0x0100, 0x1000, 0x8000


def open_tun(name: str) -> int:
    """Make a TUN device in the calling thread's namespace; its non-blocking descriptor reads IP packets.

    EBUSY when the name is taken; ENOENT or ENODEV, in words, when the kernel has no such devices.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        raise OSError(err.errno, f'no {DEVICE}: this kernel needs CONFIG_TUN (try "modprobe tun")') from err
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL))
    except BaseException:
        os.close(fd)
        raise
    return fd
