"""flannel: lets another plugin (bridge, unless told otherwise) work on the subnet flanneld has leased.

flanneld writes what it got to /run/flannel/subnet.env (`subnetFile`):

    FLANNEL_NETWORK=10.1.0.0/16         the whole network, routed through the node
    FLANNEL_SUBNET=10.1.17.1/24         this node's part of it; FLANNEL_IPV6_NETWORK and _SUBNET likewise
    FLANNEL_MTU=1472
    FLANNEL_IPMASQ=true                 flanneld masquerades, so that the delegate must not

From this and from `delegate` the delegate's configuration is made, and kept in `dataDir`/CONTAINER_ID
(/var/lib/cni/flannel): DEL and CHECK use what ADD has used, even if flanneld is gone or has another lease.
"""

from __future__ import annotations

import ipaddress
import os

from podling.cni import jsontext
from podling.cni.plugins import skel
from podling.cni.plugins.execute import delegate, delegate_add
from podling.cni.plugins.find import find_plugin, own_plugin
from podling.cni.plugins.meta.chained import Keys
from podling.cni.types import IO_FAILURE, NOT_AVAILABLE, Args, CNIError, ConfigError, Result
from podling.linux.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from podling.cni.types import IPNetwork

DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env"
DEFAULT_DATA_DIR = "/var/lib/cni/flannel"


@record
class FlannelConf:
    """Options of the reference plugin's documentation ("flannel plugin")."""

    subnet_file: str
    data_dir: str
    delegate: dict[str, Any]
    ipam: dict[str, Any]  # further keys for the delegate's IPAM plugin
    runtime: dict[str, Any]


@record
class Lease:
    """The contents of `subnetFile`."""

    networks: tuple[IPNetwork, ...]
    subnets: tuple[IPNetwork, ...]
    mtu: int  # bytes
    ip_masq: bool


def _parse(args: Args) -> FlannelConf:
    options = Keys("flannel", args.conf)
    conf = FlannelConf(
        subnet_file=options.get("subnetFile", str, "") or DEFAULT_SUBNET_FILE,
        data_dir=options.get("dataDir", str, "") or DEFAULT_DATA_DIR,
        delegate=options.get("delegate", dict, {}),
        ipam=options.get("ipam", dict, {}),
        runtime=options.get("runtimeConfig", dict, {}),
    )
    if "type" in conf.delegate and not isinstance(conf.delegate["type"], str):
        options.fault("'delegate' dictionary, if present, must have (string) 'type' field")
    for key in ("name", "ipam"):
        if key in conf.delegate:
            options.fault(f"'delegate' dictionary must not have '{key}' field, it'll be set by flannel")
    options.done()
    return conf


def read_lease(path: str) -> Lease:
    """`CNIError` NOT_AVAILABLE while flanneld has not written the file, `ConfigError` for a broken one."""
    try:
        with open(path) as file:
            pairs = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except FileNotFoundError as err:
        raise CNIError(
            NOT_AVAILABLE,
            f"loadFlannelSubnetEnv failed: open {path}: no such file or directory",
            "flanneld writes it once it has a lease: is it running?",
        ) from err
    except OSError as err:
        raise CNIError(IO_FAILURE, f"loadFlannelSubnetEnv failed: {err}") from err
    try:
        lease = Lease(
            networks=_cidrs(pairs, "FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"),
            subnets=_cidrs(pairs, "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"),
            mtu=int(pairs.get("FLANNEL_MTU", 0)),
            ip_masq=pairs.get("FLANNEL_IPMASQ") == "true",
        )
    except ValueError as err:
        raise ConfigError(f"loadFlannelSubnetEnv failed: {path}: {err}") from err
    missing = [
        name
        for name, present in (
            ("FLANNEL_NETWORK", lease.networks),
            ("FLANNEL_SUBNET", lease.subnets),
            ("FLANNEL_MTU", "FLANNEL_MTU" in pairs),
            ("FLANNEL_IPMASQ", "FLANNEL_IPMASQ" in pairs),
        )
        if not present
    ]
    if missing:
        raise ConfigError(f"{path} is missing {', '.join(missing)}")
    return lease


def _cidrs(pairs: dict[str, str], *names: str) -> tuple[IPNetwork, ...]:
    texts = [text.strip() for name in names for text in pairs.get(name, "").split(",") if text.strip()]
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def compute_delegate(args: Args, conf: FlannelConf, lease: Lease) -> dict[str, Any]:
    """The delegate's configuration. What `delegate` says itself is never overruled."""
    kind = conf.delegate.get("type", "bridge")
    ranges = [[{"subnet": str(subnet)}] for subnet in lease.subnets]
    routes = [*(conf.ipam.get("routes") or ()), *({"dst": str(network)} for network in lease.networks)]
    made = {
        "cniVersion": args.version,
        "ipMasq": not lease.ip_masq,
        "mtu": lease.mtu,
        **({"isGateway": True} if kind == "bridge" else {}),
        **conf.delegate,
        "type": kind,
        "name": args.name,
        "ipam": {"type": "host-local", **conf.ipam, "ranges": ranges, "routes": routes},
    }
    return made | ({"runtimeConfig": conf.runtime} if conf.runtime else {})


# --- what ADD has used


def _scratch(conf: FlannelConf, args: Args) -> str:
    # The reference keeps one file a container. A second interface of the same container gets its own.
    name = args.container_id if args.ifname == "eth0" else f"{args.container_id}-{args.ifname}"
    return os.path.join(conf.data_dir, name)


def _save(path: str, made: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(jsontext.dumps(made))
    os.rename(draft, path)


def _saved(conf: FlannelConf, args: Args) -> Args | None:
    """The call of the delegate with the configuration ADD has used; None when there was no ADD."""
    try:
        with open(_scratch(conf, args), "rb") as file:
            made = jsontext.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError as err:
        raise CNIError(IO_FAILURE, f"failed to parse netconf: {_scratch(conf, args)}: {err}") from err
    previous = args.conf.get("prevResult")
    return replace(args, conf=made | ({"prevResult": previous} if previous else {}))


# --- commands


def _add(args: Args) -> Result:
    conf = _parse(args)
    made = compute_delegate(args, conf, read_lease(conf.subnet_file))
    path = _scratch(conf, args)
    _save(path, made)  # before the delegate is called: it may be killed in the middle
    try:
        return delegate_add(made["type"], replace(args, conf=made))
    except CNIError:
        os.unlink(path)  # delegate_add has had it DEL what it made
        raise


def _delete(args: Args) -> None:
    conf = _parse(args)
    call = _saved(conf, args)
    if call is None:
        return
    delegate(str(call.conf["type"]), call, "DEL")
    os.unlink(_scratch(conf, args))  # not before: a DEL that failed is tried again


def _check(args: Args) -> None:
    call = _saved(_parse(args), args)
    if call is None:
        raise ConfigError(f"flannel: nothing is known of an ADD of {args.container_id}")
    delegate(str(call.conf["type"]), call, "CHECK")


def _status(args: Args) -> None:
    conf = _parse(args)
    made = compute_delegate(args, conf, read_lease(conf.subnet_file))
    delegate(made["type"], replace(args, conf=made), "STATUS")


def _gc(args: Args) -> None:
    conf = _parse(args)
    made = compute_delegate(args, conf, read_lease(conf.subnet_file))
    valid = args.conf.get("cni.dev/valid-attachments") or []
    delegate(made["type"], replace(args, conf=made | {"cni.dev/valid-attachments": valid}), "GC")


def _prepare(args: Args) -> None:
    conf = _parse(args)
    made = compute_delegate(args, conf, read_lease(conf.subnet_file))
    plugin = own_plugin(find_plugin(made["type"], args.path))
    if plugin is not None:
        plugin.prepare(replace(args, conf=made))


PLUGIN = skel.Plugin(
    name="flannel", add=_add, delete=_delete, check=_check, status=_status, gc=_gc, prepare=_prepare
)
