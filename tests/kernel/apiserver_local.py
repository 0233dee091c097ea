"""Real clients of the real API server on loopback: kubeconfigs, kubectl, raw HTTPS."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from podling.apiserver.config import APIServerConfig
from podling.apiserver.server import APIServer
from podling.client.http import ClientConfig, ssl_context
from podling.machine import pki

LOOPBACK = "127.0.0.1"

CONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}", certificate-authority: {directory}/ca.crt}}}}]
users: [{{name: u, user: {{client-certificate: {directory}/{user}.crt, client-key: {directory}/{user}.key}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Cluster:
    """An API server with its certificates. `kubelet` credentials are its own client's."""

    def __init__(self, directory: Path) -> None:
        from ipaddress import IPv4Address, IPv4Network

        self.directory = directory
        self.ca = pki.make_ca()
        self.ca.write(directory, "ca")
        address = IPv4Address(LOOPBACK)
        cert, key = pki.issue(self.ca, "kube-apiserver", addresses=[address]).write(directory, "server")
        self.issue("apiserver-kubelet-client", "system:masters")
        self.config = APIServerConfig(
            bind_address=LOOPBACK,
            port=0,
            advertise_address=address,
            tls_cert=cert,
            tls_key=key,
            client_ca=directory / "ca.crt",
            store_path=directory / "store.db",
            service_cidr=IPv4Network("10.96.0.0/16"),
            pod_cidr=IPv4Network("10.244.0.0/16"),
            kubelet_client_cert=directory / "apiserver-kubelet-client.crt",
            kubelet_client_key=directory / "apiserver-kubelet-client.key",
            kubelet_ca=directory / "ca.crt",
        )
        self.server = APIServer(self.config)
        self.issue("admin", "system:masters")

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.server.port}"

    def issue(self, user: str, *groups: str) -> None:
        pki.issue(self.ca, user, organizations=groups).write(self.directory, user)

    def kubeconfig(self, user: str = "admin") -> Path:
        path = self.directory / f"{user}.conf"
        path.write_text(CONFIG.format(server=self.url, directory=self.directory, user=user))
        return path

    def tls(self, user: str | None = "admin") -> ssl.SSLContext:
        pair = (self.directory / f"{user}.crt", self.directory / f"{user}.key") if user else (None, None)
        config = ClientConfig(
            server=self.url, ca_file=self.directory / "ca.crt", cert_file=pair[0], key_file=pair[1]
        )
        context = ssl_context(config)
        assert context is not None
        return context

    def session(self, user: str | None = "admin") -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(ssl=self.tls(user)), trust_env=False
        )

    async def kubectl(
        self, binary: Path, *args: str, stdin: str = "", user: str = "admin", **environment: str
    ) -> Ran:
        process = await self.start_kubectl(binary, *args, user=user, **environment)
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    async def start_kubectl(
        self, binary: Path, *args: str, user: str = "admin", **environment: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            binary,
            f"--kubeconfig={self.kubeconfig(user)}",
            f"--cache-dir={self.directory}/cache",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **environment},
        )
