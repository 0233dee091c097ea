"""One check of a probe: exec, httpGet or tcpSocket. Each returns a result, none raises.

Kubernetes documentation, "Configure Liveness, Readiness and Startup Probes"; texts of upstream's
`pkg/probe`, which appear in Unhealthy events. HTTP is spoken by hand over asyncio: a probe needs the
status line and a little of the body, and a node makes hundreds of them a minute.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from podling.api import core_v1
from podling.kubelet import names
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.service import RuntimeService

MAX_BODY_BYTES = 10 * 1024


@dataclass(frozen=True, slots=True)
class CheckResult:
    success: bool
    output: str = ""


def resolve_port(container: names.AnyContainer, port: int | str) -> int:
    """A port number, also by the name of one of the container's ports. Raises ValueError."""
    if isinstance(port, int):
        return port
    if port.isdigit():
        return int(port)
    found = next((p.container_port for p in container.ports if p.name == port), None)
    if found is None:
        raise ValueError(f"couldn't find port: {port}")
    return found


async def run_check(
    runtime: RuntimeService,
    container: names.AnyContainer,
    container_id: str,
    probe: core_v1.Probe,
    *,
    pod_ips: Sequence[str],
) -> CheckResult:
    timeout_s = float(probe.timeout_seconds or 1)
    if probe.exec is not None:
        return await exec_check(runtime, container_id, probe.exec.command, timeout_s=timeout_s)
    pod_ip = pod_ips[0] if pod_ips else ""
    try:
        if probe.http_get is not None:
            port = resolve_port(container, probe.http_get.port)
            return await http_get(probe.http_get, probe.http_get.host or pod_ip, port, timeout_s=timeout_s)
        if probe.tcp_socket is not None:
            port = resolve_port(container, probe.tcp_socket.port)
            return await tcp_connect(probe.tcp_socket.host or pod_ip, port, timeout_s=timeout_s)
    except ValueError as err:
        return CheckResult(False, str(err))
    if probe.grpc is not None:
        return await tcp_connect(pod_ip, probe.grpc.port, timeout_s=timeout_s)
    return CheckResult(True)


async def exec_check(
    runtime: RuntimeService, container_id: str, command: Sequence[str], *, timeout_s: float
) -> CheckResult:
    try:
        response = await runtime.exec_sync(
            cri.ExecSyncRequest(container_id=container_id, cmd=list(command), timeout=int(timeout_s))
        )
    except CRIError as err:
        if err.code is Code.DEADLINE_EXCEEDED:
            return CheckResult(
                False, f'command timed out: "{" ".join(command)}" timed out after {timeout_s:g}s'
            )
        return CheckResult(False, err.message)
    output = (response.stdout + response.stderr)[:MAX_BODY_BYTES].decode("utf-8", "replace")
    return CheckResult(response.exit_code == 0, output)


async def tcp_connect(host: str, port: int, *, timeout_s: float) -> CheckResult:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return CheckResult(False, f"dial tcp {_join(host, port)}: i/o timeout")
    except OSError as err:
        return CheckResult(False, f"dial tcp {_join(host, port)}: {_words(err)}")
    writer.close()
    return CheckResult(True)


async def http_get(action: core_v1.HTTPGetAction, host: str, port: int, *, timeout_s: float) -> CheckResult:
    """Success is a status of 200 to 399, as upstream."""
    scheme = (action.scheme or "HTTP").lower()
    path = action.path or "/"
    if not path.startswith("/"):
        path = f"/{path}"
    url = f"{scheme}://{_join(host, port)}{path}"
    try:
        async with asyncio.timeout(timeout_s):
            status, body = await _exchange(action, host, port, path, tls=scheme == "https")
    except TimeoutError:
        text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return CheckResult(False, f'Get "{url}": {text}')
    except ssl.SSLError as err:
        return CheckResult(False, f'Get "{url}": tls: {err.reason}')
    except OSError as err:
        return CheckResult(False, f'Get "{url}": dial tcp {_join(host, port)}: {_words(err)}')
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return CheckResult(False, f'Get "{url}": malformed HTTP response')
    if 200 <= status < 400:
        return CheckResult(True, body)
    return CheckResult(False, f"HTTP probe failed with statuscode: {status}")


async def _exchange(
    action: core_v1.HTTPGetAction, host: str, port: int, path: str, *, tls: bool
) -> tuple[int, str]:
    context = None
    if tls:
        # Upstream does not verify either: the probe asks whether it answers, not who it is.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        headers = {"Host": _join(host, port), "User-Agent": "kube-probe/1.37", "Accept": "*/*"}
        headers.update({header.name: header.value for header in action.http_headers})
        lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status_line = await reader.readline()
        version, _, rest = status_line.decode("latin-1").partition(" ")
        if not version.startswith("HTTP/"):
            raise ValueError(status_line)
        status = int(rest[:3])
        body = await reader.read(MAX_BODY_BYTES) if 200 <= status < 400 else b""
        return status, body.decode("utf-8", "replace")
    finally:
        writer.close()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _words(err: OSError) -> str:
    # Not err.strerror: asyncio puts a text of its own there.
    return f"connect: {os.strerror(err.errno).lower()}" if err.errno else str(err)
