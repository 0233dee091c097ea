"""tap: gives the container a TAP device, for a virtual machine or another program that handles frames.

Whoever opens /dev/net/tun and asks for the device by name reads what the container sends and writes what it
is to receive. The device stays until DEL, opened or not; without a reader it has no carrier.

Options (the reference plugin's documentation, "tap plugin"):

    multiQueue      several programs or threads may open the device, each with a queue of its own
    mtu             bytes; 0 (default) is the kernel's choice
    mac             of the device; CNI_ARGS MAC wins over it, and the capability "mac" over both
    owner, group    numeric IDs of who may open the device besides root; default: nobody
    selinuxContext  the context to make the device in, on a system with SELinux
    bridge          a bridge in the container's namespace to make the device a port of
    ipam            empty: layer 2 only, the device is just set up
    dns             returned in the result
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from podling.cni.plugins import container, own_link, skel
from podling.cni.plugins.options import Options
from podling.cni.types import (
    DNS,
    IO_FAILURE,
    KERNEL_REFUSED,
    NOT_AVAILABLE,
    UNSUPPORTED_FIELD,
    Args,
    CNIError,
    ConfigError,
    Result,
)
from podling.linux.netlink import links
from podling.linux.netns import run_in_netns
from podling.linux.record import record
from podling.linux.tun import (
    DEVICE,
    IFF_MULTI_QUEUE,
    IFF_NO_PI,
    IFF_TAP,
    IFF_TUN_EXCL,
    TUNSETGROUP,
    TUNSETIFF,
    TUNSETOWNER,
    TUNSETPERSIST,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.cni.plugins.own_link import Ends
    from podling.linux.netlink import Link

KIND = "tun"  # the driver's name, of TUN devices and of TAP devices
ID_MAX = 0xFFFFFFFE  # the last one means "nobody"


@record
class _Conf:
    multi_queue: bool
    mtu: int
    mac: str
    owner: int | None
    group: int | None
    selinux_context: str
    bridge: str
    ipam: str
    dns: DNS


def _parse(args: Args) -> _Conf:
    options = Options(args)
    get = options.get
    ids = {key: get(key, int, -1) if args.conf.get(key) is not None else None for key in ("owner", "group")}
    conf = _Conf(
        multi_queue=get("multiQueue", bool, False),
        mtu=get("mtu", int, 0),
        mac=options.valid_mac(get("mac", str, "")),
        owner=ids["owner"],
        group=ids["group"],
        # The documentation writes it in lower case; the reference plugin takes either.
        selinux_context=get("selinuxContext", str, "") or get("selinuxcontext", str, ""),
        bridge=get("bridge", str, ""),
        ipam=options.ipam,
        dns=options.dns,
    )
    options.refuse(conf.mtu < 0, f"invalid MTU {conf.mtu}")
    for key, number in ids.items():
        options.refuse(number is not None and not 0 <= number <= ID_MAX, f"invalid {key} {number}")
    options.end("tap")
    return conf


def _add(args: Args) -> Result:
    conf = _parse(args)
    return own_link.add(
        args,
        lambda ends: _make(args, conf, ends),
        ipam=conf.ipam,
        dns=conf.dns,
        before_up=_announce if conf.ipam else None,
    )


def _announce(ifname: str) -> None:
    container.announce_addresses(ifname, ipv6=False)


def _make(args: Args, conf: _Conf, ends: Ends) -> Link:
    if ends.inside.link_find(args.ifname) is not None:
        raise own_link.name_taken(args, "tap")
    run_in_netns(ends.netns, _create, args, conf)
    link = ends.inside.link_get(args.ifname)
    try:
        master = _bridge(args, conf, ends) if conf.bridge else None
        ends.inside.execute(
            links.set_link(link.index, mtu=conf.mtu or None, mac=conf.mac or None, master=master)
        )
        return ends.inside.link_get(args.ifname)
    except BaseException:
        container.undo(lambda: ends.inside.link_del(link.index, missing_ok=True))
        raise


def _bridge(args: Args, conf: _Conf, ends: Ends) -> int:
    bridge = ends.inside.link_find(conf.bridge)
    if bridge is None or bridge.kind != "bridge":
        raise ConfigError(f"failed to get bridge {conf.bridge}: there is no such bridge in {args.netns}")
    return bridge.index


def _create(args: Args, conf: _Conf) -> None:
    """Make the device in this thread's namespace; the thread ends afterwards."""
    if conf.selinux_context:
        _create_in_context(args, conf)
        return
    device = _open()
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | (IFF_MULTI_QUEUE if conf.multi_queue else 0)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", args.ifname.encode(), flags))
        for request, number in ((TUNSETOWNER, conf.owner), (TUNSETGROUP, conf.group)):
            if number is not None:
                fcntl.ioctl(device, request, number)
        # Last: until here the device goes by itself when we fail.
        fcntl.ioctl(device, TUNSETPERSIST, 1)
    except OSError as err:
        raise CNIError(KERNEL_REFUSED, f'failed to create tap "{args.ifname}": {err.strerror}') from err
    finally:
        os.close(device)


def _open() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise CNIError(
            KERNEL_REFUSED, f"there is no {DEVICE}", str(own_link.missing_driver(KIND).message)
        ) from err
    except OSError as err:
        if err.errno in (errno.ENODEV, errno.ENXIO):
            raise own_link.missing_driver(KIND) from err
        raise CNIError(IO_FAILURE, f"cannot open {DEVICE}: {err.strerror}") from err


def _create_in_context(args: Args, conf: _Conf) -> None:
    """Let ip(8) make the device: a context is taken on by executing a program (`man 3 setexeccon`)."""
    import subprocess

    try:
        with open("/proc/thread-self/attr/exec", "w") as file:
            file.write(conf.selinux_context)
    except OSError as err:
        raise CNIError(
            UNSUPPORTED_FIELD,
            f"tap: cannot take on selinuxContext {conf.selinux_context!r}: {err.strerror}",
            ""
            if os.path.exists("/sys/fs/selinux/enforce")
            else "SELinux is not enabled (CONFIG_SECURITY_SELINUX)",
        ) from err
    command = ["ip", "tuntap", "add", "mode", "tap", "name", args.ifname]
    command += ["multi_queue"] if conf.multi_queue else []
    command += ["user", str(conf.owner)] if conf.owner is not None else []
    command += ["group", str(conf.group)] if conf.group is not None else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise CNIError(IO_FAILURE, f"cannot execute ip: {err.strerror}", "install iproute2") from err
    if done.returncode:
        raise CNIError(KERNEL_REFUSED, f'failed to create tap "{args.ifname}": {done.stderr.strip()}')


def _delete(args: Args) -> None:
    own_link.delete(args, KIND)


def _check(args: Args) -> None:
    _parse(args)
    own_link.check(args, KIND)


def _status(args: Args) -> None:
    if not os.path.exists(DEVICE):
        raise CNIError(NOT_AVAILABLE, f"there is no {DEVICE}", str(own_link.missing_driver(KIND).message))
    own_link.delegate_status(args)


PLUGIN = skel.Plugin(
    name="tap", add=_add, delete=_delete, check=_check, status=_status, gc=own_link.delegate_gc
)
