"""host-device: moves a network device of the node into the container, and back when the container goes.

The container has the device for itself, renamed to CNI_IFNAME; the name it had on the node is kept in its
alias, by which DEL knows it. When a namespace goes without DEL, the kernel gives physical devices back to the
first namespace of the machine, and removes virtual ones.

Options (the reference plugin's documentation, "host-device plugin"); the first one given counts:

    device      name, such as eth1
    hwaddr      MAC address
    kernelpath  a path below /sys/devices/ whose net/ holds the device
    pciBusID    PCI address, such as 0000:00:1f.6; the capability "deviceID" (a PCI or an auxiliary device)
                takes its place
    ipam        empty: the device is just moved and set up
    dns         returned in the result

A PCI device that a userspace driver has (vfio-pci and the like, for DPDK) is no link of the kernel: then
nothing is moved, and IPAM's addresses are only reported.
"""

from __future__ import annotations

import os

from podling.cni.plugins import container, own_link, skel
from podling.cni.plugins.execute import delegate, delegate_add
from podling.cni.plugins.options import Options
from podling.cni.types import DNS, KERNEL_REFUSED, Args, CNIError, ConfigError, Interface, Result
from podling.linux.netlink import Netlink, links
from podling.linux.netlink.wire import mac_bytes
from podling.linux.netns import open_netns
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from podling.linux.netlink import Link

SYS_DEVICES = "/sys/devices/"
SYS_PCI = "/sys/bus/pci/devices"
SYS_AUXILIARY = "/sys/bus/auxiliary/devices"
USERSPACE_DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")


@record
class _Conf:
    device: str
    mac: str
    kernel_path: str
    pci: str
    auxiliary: str
    ipam: str
    dns: DNS


# --- the configuration


def _parse(args: Args) -> _Conf:
    options = Options(args)
    get = options.get
    pci, auxiliary = get("pciBusID", str, ""), ""
    device_id = str((args.conf.get("runtimeConfig") or {}).get("deviceID") or "")
    if device_id:
        pci, auxiliary = _device_id(device_id)
    conf = _Conf(
        device=get("device", str, ""),
        mac=get("hwaddr", str, ""),
        kernel_path=get("kernelpath", str, ""),
        pci=pci,
        auxiliary=auxiliary,
        ipam=options.ipam,
        dns=options.dns,
    )
    given = conf.device or conf.mac or conf.kernel_path or conf.pci or conf.auxiliary
    options.refuse(not given, 'specify either "device", "hwaddr", "kernelpath" or "pciBusID"')
    options.refuse(not _file_name(conf.pci), f"invalid pciBusID: {conf.pci!r}")
    options.refuse("\0" in conf.kernel_path, f"invalid kernelpath: {conf.kernel_path!r}")
    options.end("host-device")
    return conf


def _device_id(device_id: str) -> tuple[str, str]:
    if _file_name(device_id):
        if os.path.exists(os.path.join(SYS_PCI, device_id)):
            return device_id, ""
        if os.path.exists(os.path.join(SYS_AUXILIARY, device_id)):
            return "", device_id
    raise ConfigError(f"runtime config DeviceID {device_id} not found or unsupported")


def _file_name(text: str) -> bool:
    """Whether it stays in the directory it is looked for."""
    return text not in (".", "..") and not any(c in text for c in "/\0")


def _in_userspace(conf: _Conf) -> bool:
    """Whether the device belongs to a driver for DPDK. `ConfigError` when there is no such PCI device."""
    if not conf.pci:
        return False
    try:
        driver = os.readlink(os.path.join(SYS_PCI, conf.pci, "driver"))
    except OSError as err:
        raise ConfigError(f"error with host device: PCI device {conf.pci}: {err.strerror}") from err
    return os.path.basename(driver) in USERSPACE_DRIVERS


# --- finding the device


def _find(host: Netlink, conf: _Conf) -> Link:
    if conf.device:
        link, what = host.link_find(conf.device), f"device {conf.device}"
    elif conf.mac:
        link, what = _by_mac(host, conf.mac), f"hwaddr {conf.mac}"
    else:
        directory = _net_directory(conf)
        link, what = _first_of(host, directory), f"a network device in {directory}"
    if link is None:
        raise ConfigError(f"failed to find host device: there is no {what}")
    return link


def _by_mac(host: Netlink, mac: str) -> Link | None:
    try:
        wanted = mac_bytes(mac).hex(":")
    except ValueError as err:
        raise ConfigError(f'failed to parse MAC address "{mac}": {err}') from err
    return next((link for link in host.link_list() if link.mac == wanted), None)


def _net_directory(conf: _Conf) -> str:
    if conf.kernel_path:
        path = os.path.normpath(conf.kernel_path)
        if not path.startswith(SYS_DEVICES):
            raise ConfigError(
                f'kernel device path "{conf.kernel_path}" must be absolute and begin with {SYS_DEVICES}'
            )
        return os.path.join(path, "net")
    if conf.auxiliary:
        return os.path.join(SYS_AUXILIARY, conf.auxiliary, "net")
    device = os.path.join(SYS_PCI, conf.pci)
    if os.path.isdir(os.path.join(device, "net")):
        return os.path.join(device, "net")
    virtio = sorted(name for name in _listed(device) if name.startswith("virtio"))
    for name in virtio:
        if os.path.isdir(os.path.join(device, name, "net")):
            return os.path.join(device, name, "net")
    raise ConfigError(f"failed to find host device: no net directory under pci device {conf.pci}")


def _first_of(host: Netlink, directory: str) -> Link | None:
    # /sys shows the links of the namespace it was mounted in: one that is not on this node is none.
    found = (host.link_find(name) for name in sorted(_listed(directory)))
    return next((link for link in found if link is not None), None)


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as err:
        raise ConfigError(f"failed to find host device: cannot read {directory}: {err.strerror}") from err


# --- moving it


def _move_in(args: Args, device: Link, *, host: Netlink, inside: Netlink, netns: int) -> Link:
    """Into the container under its new name, and up; back to where it was when that fails."""
    if inside.link_find(args.ifname) is not None:
        raise CNIError(
            KERNEL_REFUSED,
            f'failed to move link: "{args.ifname}" already exists in {args.netns}',
            "DEL the earlier attachment, or pass another CNI_IFNAME",
        )
    try:
        # The kernel takes it down, moves it (with the new name if its own is taken there) and renames it.
        host.execute(links.set_link(device.index, netns_fd=netns, name=args.ifname, alias=device.name))
        moved = inside.link_get(args.ifname)
        inside.link_set(moved.index, up=True)
        return inside.link_get(moved.index)
    except BaseException:
        container.undo(lambda: _undo_move(args, device, host=host, inside=inside))
        raise


def _undo_move(args: Args, device: Link, *, host: Netlink, inside: Netlink) -> None:
    """Wherever the move has come to: the device gets back to the node, with its name and as up as it was."""
    if host.link_find(device.name) is None:
        found = (inside.link_find(name) for name in (args.ifname, device.name))
        link = next(link for link in found if link is not None and link.mac == device.mac)
        _return(link, device.name, inside)
    host.link_set(device.name, up=device.up)


def _return(link: Link, name: str, inside: Netlink) -> None:
    node = open_netns("/proc/thread-self/ns/net")
    try:
        inside.execute(links.set_link(link.index, netns_fd=node, name=name, alias="", up=False))
    finally:
        os.close(node)


def _move_out(args: Args, inside: Netlink, host: Netlink) -> None:
    """Back to the node under its old name, and down: how it was before, nobody has written down."""
    link = inside.link_find(args.ifname)
    if link is None or not link.alias:
        return  # gone already, or somebody else's
    if host.link_find(link.alias) is not None:
        raise CNIError(
            KERNEL_REFUSED,
            f'failed to move "{args.ifname}" back: the host has a link "{link.alias}" again',
            "rename that, and repeat the DEL",
        )
    _return(link, link.alias, inside)


# --- the commands


def _add(args: Args) -> Result:
    conf = _parse(args)
    in_userspace = _in_userspace(conf)
    netns = skel.open_sandbox(args)
    try:
        if in_userspace:
            return _report(args, conf)
        with Netlink() as host, Netlink(netns) as inside:
            device = _find(host, conf)
            link = _move_in(args, device, host=host, inside=inside, netns=netns)
            try:
                ipam = delegate_add(conf.ipam, args) if conf.ipam else Result()
                if conf.ipam:
                    container.require_ips(ipam, conf.ipam)
                container.configure(link, ipam, inside=inside, netns=netns)
            except BaseException:
                container.undo(
                    lambda: _undo_move(args, device, host=host, inside=inside),
                    lambda: container.delegate_delete(args),
                )
                raise
    finally:
        os.close(netns)
    return Result(
        interfaces=(Interface(name=link.name, mac=link.mac, sandbox=args.netns, mtu=link.mtu),),
        ips=tuple(replace(ip, interface=0) for ip in ipam.ips),
        routes=ipam.routes,
        dns=conf.dns or ipam.dns,
    )


def _report(args: Args, conf: _Conf) -> Result:
    """Of a device in userspace: IPAM's answer, for whoever drives the device."""
    ipam = delegate_add(conf.ipam, args) if conf.ipam else Result()
    if conf.ipam and not ipam.ips:
        container.undo(lambda: container.delegate_delete(args))
        container.require_ips(ipam, conf.ipam)
    return replace(ipam, dns=conf.dns or ipam.dns)


def _delete(args: Args) -> None:
    container.tear_down(args, lambda: _give_back(args))


def _give_back(args: Args) -> None:
    if not args.netns:
        return
    try:
        with Netlink() as host, Netlink(args.netns) as inside:
            _move_out(args, inside, host)
    except FileNotFoundError:
        return  # the kernel has given the device back with the namespace


def _check(args: Args) -> None:
    conf = _parse(args)
    if conf.ipam:
        delegate(conf.ipam, args, "CHECK")
    previous = container.previous_result(args)
    if _in_userspace(conf):
        return
    netns = skel.open_sandbox(args)
    try:
        with Netlink(netns) as inside:
            container.check(args, previous, inside, kind=None)
    finally:
        os.close(netns)


PLUGIN = skel.Plugin(
    name="host-device",
    add=_add,
    delete=_delete,
    check=_check,
    status=own_link.delegate_status,
    gc=own_link.delegate_gc,
)
