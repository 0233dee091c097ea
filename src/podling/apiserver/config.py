"""Settings of the API server."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class APIServerConfig:
    """Everything the API server is told; loaded once by its caller."""

    bind_address: str
    """Address to listen on; `0.0.0.0` for all."""
    port: int = 6443
    """0 lets the kernel choose; `APIServer.port` says which."""
    advertise_address: IPv4Address
    """Where others reach this server: the only endpoint of the `kubernetes` service."""
    tls_cert: Path
    """Serving certificate, PEM, with its chain."""
    tls_key: Path
    client_ca: Path
    """PEM bundle; a client certificate it signed names its user (CN) and groups (O)."""
    store_path: Path
    """The SQLite file; made when it is not there."""
    service_cidr: IPv4Network
    """Cluster IPs of services; its first address is the `kubernetes` service's."""
    pod_cidr: IPv4Network
    service_account_key: Path | None = None
    """Private key that signs service account tokens, PEM; None: there are none."""
    kubelet_client_cert: Path | None = None
    """Who we are to kubelets, for logs, exec, attach and port-forward; None: these are refused."""
    kubelet_client_key: Path | None = None
    kubelet_ca: Path | None = None
    """CA of the kubelets' serving certificates."""
