"""tuning: changes kernel parameters and interface attributes in a container's network namespace.

A chained plugin. `sysctl` sets parameters below `net.` (`IFNAME` in a key stands for the interface's name);
`mac`, `mtu`, `promisc`, `allmulti` and `txQLen` change the interface. All can also come from `args.cni`, and
the MAC address from the capability `mac` and from CNI_ARGS.

What the interface had before is kept in `dataDir` (/run/cni/tuning), in the reference plugin's format, and
given back on DEL; parameters end with the namespace. When /etc/cni/tuning/allowlist.conf exists, a parameter
must match one of its lines, which are regular expressions.
"""

from __future__ import annotations

import os

from podling.cni import jsontext
from podling.cni.plugins import skel
from podling.cni.plugins.meta.chained import Keys
from podling.cni.types import (
    CHECK_FAILED,
    IO_FAILURE,
    KERNEL_REFUSED,
    Args,
    CNIError,
    ConfigError,
    Result,
)
from podling.linux.netlink import Netlink, NetlinkError, links
from podling.linux.netlink.tunables import IFF_ALLMULTI, set_tunables, tx_queue_length
from podling.linux.netlink.wire import mac_bytes, mac_text
from podling.linux.netns import run_in_netns
from podling.linux.record import record, replace
from podling.linux.sysctl import read_sysctl, write_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_DATA_DIR = "/run/cni/tuning"
ALLOWLIST = "/etc/cni/tuning/allowlist.conf"


@record
class TuningConf:
    """Options of the reference plugin's documentation ("tuning plugin"); None is left alone."""

    sysctl: tuple[tuple[str, str], ...] = ()  # as written in the configuration
    mac: str | None = None
    mtu: int | None = None  # bytes
    promisc: bool = False
    allmulti: bool | None = None
    tx_queue_length: int | None = None  # packets
    data_dir: str = DEFAULT_DATA_DIR

    @property
    def changes_link(self) -> bool:
        settings = (self.mac, self.mtu, self.allmulti, self.tx_queue_length)
        return self.promisc or any(value is not None for value in settings)


def parse(args: Args) -> TuningConf:
    options = Keys("tuning", args.conf)
    convention = options.part("args").part("cni")
    sysctl = {**options.get("sysctl", dict, {}), **convention.get("sysctl", dict, {})}
    for key, value in sysctl.items():
        if not isinstance(value, str):
            options.fault(f"sysctl: the value of {key} must be a string, not {value!r}")
    mac = (
        convention.get("mac", str, "")
        or options.part("runtimeConfig").get("mac", str, "")
        or args.cni_args.get("MAC", "")
        or options.get("mac", str, "")
    )
    if mac:
        try:
            mac = mac_text(mac_bytes(mac))
        except ValueError:
            options.fault(f"invalid args {mac} for MAC addr")
    mtu = convention.maybe("mtu", int) or options.maybe("mtu", int)
    queue = [keys.maybe("txQLen", int) for keys in (convention, options)]
    allmulti = [keys.maybe("allmulti", bool) for keys in (convention, options)]
    promisc = convention.maybe("promisc", bool)
    conf = TuningConf(
        sysctl=tuple(sysctl.items()),
        mac=mac or None,
        mtu=mtu or None,
        promisc=options.get("promisc", bool, False) if promisc is None else promisc,
        allmulti=allmulti[1] if allmulti[0] is None else allmulti[0],
        tx_queue_length=queue[1] if queue[0] is None else queue[0],
        data_dir=options.get("dataDir", str, "") or DEFAULT_DATA_DIR,
    )
    for what, number in (("mtu", conf.mtu), ("txQLen", conf.tx_queue_length)):
        if number is not None and number < 0:
            options.fault(f"invalid {what} {number}")
    options.done()
    return conf


# --- kernel parameters


def sysctl_path(key: str, ifname: str) -> tuple[str, ...]:
    """The parameter's place below /proc/sys. `ConfigError` unless it belongs to a network namespace.

    As for sysctl(8): the first separator, `.` or `/`, is the one that separates; the other is part of a name.
    """
    separator = next((c for c in key if c in "./"), ".")
    other = "/" if separator == "." else "."
    names = [name.replace(other, ".") for name in key.split(separator)]
    path = tuple(name.replace("IFNAME", ifname) for name in names)
    if len(path) < 2 or path[0] != "net" or any(name in ("", ".", "..") or "/" in name for name in path):
        raise ConfigError(f'invalid net sysctl key: "{key}"', "only parameters below net. can be set")
    return path


def _sysctls(args: Args, conf: TuningConf) -> dict[tuple[str, ...], str]:
    """What to set, by path."""
    found: dict[tuple[str, ...], str] = {}
    allowed = _allowlist() if conf.sysctl else None
    for key, value in conf.sysctl:
        if allowed is not None:
            import re  # only machines with an allowlist pay for it

            try:
                if not any(re.search(pattern, key) for pattern in allowed):
                    raise ConfigError(
                        f"Sysctl {key} is not allowed. Only the following sysctls are allowed: {allowed}"
                    )
            except re.error as err:
                raise ConfigError(f"{ALLOWLIST}: invalid regular expression: {err}") from err
        path = sysctl_path(key, args.ifname)
        if path in found:
            raise ConfigError("duplicated sysctl keys are not allowed", f"{'.'.join(path)} is named twice")
        found[path] = value
    return found


def _allowlist() -> list[str] | None:
    try:
        with open(ALLOWLIST) as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        return None


def _write_sysctls(sysctls: dict[tuple[str, ...], str]) -> None:
    for path, value in sysctls.items():
        try:
            write_sysctl(path, value)
        except FileNotFoundError as err:
            raise CNIError(
                KERNEL_REFUSED,
                f"tuning: this kernel has no parameter {'.'.join(path)} in a network namespace",
            ) from err
        except OSError as err:
            raise CNIError(
                IO_FAILURE, f"tuning: cannot set {'.'.join(path)} to {value!r}: {err.strerror}"
            ) from err


# --- the interface


def _apply(nl: Netlink, index: int, conf: TuningConf) -> None:
    requests = []
    if conf.mac is not None or conf.mtu is not None:
        requests.append(links.set_link(index, mac=conf.mac, mtu=conf.mtu))
    if conf.promisc:
        requests.append(links.set_link(index, promisc=True))
    if conf.allmulti is not None or conf.tx_queue_length is not None:
        requests.append(set_tunables(index, allmulti=conf.allmulti, tx_queue_length=conf.tx_queue_length))
    nl.execute(*requests)


def _backup_path(args: Args, conf: TuningConf) -> str:
    return os.path.join(conf.data_dir, f"{args.container_id}_{args.ifname}.json")


def _save(args: Args, conf: TuningConf, nl: Netlink) -> None:
    """Write down what is about to be changed. What an earlier ADD has saved is older and stays."""
    link = nl.link_get(args.ifname)
    saved: dict[str, Any] = {}
    if conf.mac is not None:
        saved["mac"] = link.mac
    if conf.promisc:
        saved["promisc"] = bool(link.flags & links.IFF_PROMISC)
    if conf.mtu is not None:
        saved["mtu"] = link.mtu
    if conf.allmulti is not None:
        saved["allmulti"] = bool(link.flags & IFF_ALLMULTI)
    if conf.tx_queue_length is not None:
        saved["txQLen"] = tx_queue_length(nl, link.index)
    path = _backup_path(args, conf)
    if os.path.exists(path):
        return
    os.makedirs(conf.data_dir, mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(jsontext.dumps(saved, indent=1))
    os.rename(draft, path)


def _restore(args: Args, conf: TuningConf) -> None:
    """Give the interface back what it had; nothing to do without a backup, namespace or interface."""
    path = _backup_path(args, conf)
    try:
        with open(path, "rb") as file:
            saved = jsontext.loads(file.read())
    except FileNotFoundError:
        return
    except ValueError:
        saved = {}  # half-written by something else than us: of no use to anyone
    try:
        if args.netns and isinstance(saved, dict):
            with Netlink(args.netns) as nl:
                _give_back(nl, args.ifname, saved)
    except FileNotFoundError:
        pass  # the interface went with its namespace
    os.unlink(path)


def _give_back(nl: Netlink, ifname: str, saved: dict[str, Any]) -> None:
    link = nl.link_find(ifname)
    if link is None:
        return
    requests = []
    if saved.get("mac") or saved.get("mtu"):
        requests.append(links.set_link(link.index, mac=saved.get("mac"), mtu=saved.get("mtu")))
    if saved.get("promisc") is not None:
        requests.append(links.set_link(link.index, promisc=saved["promisc"]))
    if saved.get("allmulti") is not None or saved.get("txQLen") is not None:
        requests.append(
            set_tunables(link.index, allmulti=saved.get("allmulti"), tx_queue_length=saved.get("txQLen"))
        )
    if requests:
        nl.execute(*requests)


# --- commands


def _add(args: Args) -> Result:
    conf = parse(args)
    previous = args.prev_result()
    if previous is None:
        raise ConfigError("Required prevResult missing", "put tuning behind another plugin in a list")
    sysctls = _sysctls(args, conf)
    netns = skel.open_sandbox(args)
    try:
        if sysctls:
            run_in_netns(netns, _write_sysctls, sysctls)
        if conf.changes_link:
            with Netlink(netns) as nl:
                _save(args, conf, nl)
                _change(args, conf, nl)
    finally:
        os.close(netns)
    return replace(
        previous,
        interfaces=tuple(
            replace(interface, mac=conf.mac or interface.mac, mtu=conf.mtu or interface.mtu)
            if interface.name == args.ifname and interface.sandbox
            else interface
            for interface in previous.interfaces
        ),
    )


def _change(args: Args, conf: TuningConf, nl: Netlink) -> None:
    try:
        _apply(nl, nl.link_get(args.ifname).index, conf)
    except NetlinkError as err:
        _restore(args, conf)
        raise CNIError(KERNEL_REFUSED, f"tuning: {args.ifname}: {err.strerror}") from err


def _delete(args: Args) -> None:
    _restore(args, parse(args))


def _check(args: Args) -> None:
    conf = parse(args)
    if args.prev_result() is None:
        raise ConfigError("Required prevResult missing")
    sysctls = _sysctls(args, conf)
    netns = skel.open_sandbox(args)
    try:
        run_in_netns(netns, _check_sysctls, sysctls)
        with Netlink(netns) as nl:
            _check_link(args, conf, nl)
    finally:
        os.close(netns)


def _check_sysctls(sysctls: dict[tuple[str, ...], str]) -> None:
    for path, wanted in sysctls.items():
        present = read_sysctl(path)
        # The kernel answers lists (tcp_rmem) with tabs between the numbers.
        if present.split() != wanted.split():
            raise CNIError(
                CHECK_FAILED,
                f"Error: Tuning configured value of /proc/sys/{'/'.join(path)} is {wanted}, "
                f"current value is {present}",
            )


def _check_link(args: Args, conf: TuningConf, nl: Netlink) -> None:
    link = nl.link_find(args.ifname)
    if link is None:
        raise CNIError(CHECK_FAILED, f"Cannot find container link {args.ifname}")
    promisc, allmulti = bool(link.flags & links.IFF_PROMISC), bool(link.flags & IFF_ALLMULTI)
    queue = tx_queue_length(nl, link.index) if conf.tx_queue_length is not None else None
    for what, wanted, present in (
        ("Ethernet", conf.mac, link.mac),
        ("MTU", conf.mtu, link.mtu),
        ("promiscuous mode", conf.promisc or None, promisc),
        ("all-multicast mode", conf.allmulti, allmulti),
        ("transmit queue length", conf.tx_queue_length, queue),
    ):
        if wanted is not None and wanted != present:
            raise CNIError(
                CHECK_FAILED,
                f"Error: Tuning configured {what} of {args.ifname} is {wanted}, current value is {present}",
            )


PLUGIN = skel.Plugin(name="tuning", add=_add, delete=_delete, check=_check)
