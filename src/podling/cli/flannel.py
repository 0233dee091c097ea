"""`podling flannel`"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import click


@click.command("flannel")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True),
    default="/etc/kubernetes/kubelet.conf",
    show_default=True,
    help="How to reach the API server, and as whom.",
)
@click.option(
    "--hostname-override", "node_name", default=None, help="Name of the node. [default: the host name]"
)
@click.option(
    "--net-config-path",
    type=click.Path(path_type=Path),
    default="/etc/kube-flannel/net-conf.json",
    show_default=True,
    help="flannel's configuration.",
)
@click.option(
    "--iface", default=None, help="Interface other nodes are reached by. [default: the default route's]"
)
@click.option("--public-ip", "public_ips", multiple=True, help="Address others are told; one a family.")
@click.option("--ip-masq/--no-ip-masq", default=False, help="Masquerade what leaves the pod network.")
@click.option(
    "--subnet-file",
    type=click.Path(path_type=Path),
    default="/run/flannel/subnet.env",
    show_default=True,
    help="Where the CNI plugin finds the node's subnet.",
)
@click.option("-v", "--v", "verbosity", default=0, help="Verbosity of the log; 4 is debug.")
def command(
    kubeconfig: Path,
    node_name: str | None,
    net_config_path: Path,
    iface: str | None,
    public_ips: tuple[str, ...],
    ip_masq: bool,
    subnet_file: Path,
    verbosity: int,
) -> None:
    """Run flannel's daemon on this node until it is ended, with flanneld's options."""
    import ipaddress
    import logging

    import uvloop

    from podling.machine.config import ConfigError
    from podling.network.flannel import net_conf
    from podling.network.flannel.alone import run_alone
    from podling.network.flannel.node import FlannelConfig

    try:
        config = FlannelConfig(
            net_conf=net_conf.parse(net_config_path.read_bytes()),
            iface=iface,
            public_ips=tuple(ipaddress.ip_address(text) for text in public_ips),
            ip_masq=ip_masq,
            subnet_file=subnet_file,
        )
    except OSError as err:
        raise ConfigError(f"podling flannel: {net_config_path}: {err.strerror}") from err
    except ValueError as err:
        raise ConfigError(f"podling flannel: {err}") from err
    level = logging.DEBUG if verbosity >= 4 else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_alone(config, node_name or socket.gethostname().lower(), kubeconfig))
