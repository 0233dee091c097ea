"""`ipMasq` and `ipMasqBackend` of bridge and ptp: hide a container behind its node outside its subnet.

Differs from upstream: without `ipMasqBackend` it is nftables, there iptables where that is installed. DEL and
GC find the rules of either.
"""

from __future__ import annotations

from podling.cni.plugins.main import masquerade

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from podling.cni.plugins.options import Options
    from podling.cni.types import Args, IPInterface

BACKENDS = ("nftables", "iptables")


def parse(options: Options) -> bool:
    """Whether to masquerade; notes as faults what is wrong with either option."""
    backend = options.get("ipMasqBackend", str, "")
    options.refuse(
        backend and backend not in BACKENDS, f"ipMasqBackend: unknown backend {backend!r}, not of {BACKENDS}"
    )
    return options.get("ipMasq", bool, False)


def add(args: Args, addresses: Iterable[IPInterface]) -> None:
    """Masquerade these addresses of the container. `CNIError` when the backend is missing or refuses."""
    if _backend(args) == "iptables":
        from podling.cni.plugins.main import masquerade_iptables

        masquerade_iptables.add(args.name, args.container_id, addresses)
    else:
        masquerade.add(args.name, args.ifname, args.container_id, addresses)


def remove(args: Args) -> None:
    """Take the container's rules away, if the network is masqueraded; none is fine."""
    if not args.conf.get("ipMasq"):
        return
    backend = _backend(args)
    found = backend != "iptables" and masquerade.remove(args.name, args.ifname, args.container_id)
    if not found and backend != "nftables":
        # Also where no backend is named: the reference plugins, who use iptables then, may have been here.
        from podling.cni.plugins.main import masquerade_iptables

        masquerade_iptables.remove(args.name, args.container_id)


def remove_others(args: Args) -> None:
    """GC: the rules of all containers of the network that have no valid attachment any more."""
    if not args.conf.get("ipMasq"):
        return
    backend, valid = _backend(args), args.valid_attachments
    if backend != "iptables":
        masquerade.remove_others(args.name, valid)
    if backend != "nftables":
        from podling.cni.plugins.main import masquerade_iptables

        masquerade_iptables.remove_others(args.name, {container_id for container_id, _ in valid})


def _backend(args: Args) -> str:
    return str(args.conf.get("ipMasqBackend") or "")
