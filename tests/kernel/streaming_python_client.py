"""Run by test_streaming_raw.py: what the `kubernetes` client gets from an exec and a port-forward, as JSON.

Arguments: API URL, CA file, port to forward to.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import kubernetes
from kubernetes.stream import portforward, stream


def main(url: str, ca_file: str, port: int) -> None:
    configuration = kubernetes.client.Configuration(host=url)
    configuration.ssl_ca_cert = ca_file
    api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
    print(json.dumps({**execute(api), "forwarded": forward(api, port)}))


def execute(api: Any) -> dict[str, object]:
    session = stream(
        api.connect_get_namespaced_pod_exec,
        *("web", "default"),
        command=["sh", "-c", "read x; echo out $x; echo err >&2; exit 5"],
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    session.write_stdin("text\n")
    session.run_forever(timeout=10)
    out, err = session.read_stdout(), session.read_stderr()
    return {"stdout": out, "stderr": err, "returncode": session.returncode}


def forward(api: Any, port: int) -> str:
    forwarding = portforward(api.connect_get_namespaced_pod_portforward, "web", "default", ports=str(port))
    sock = forwarding.socket(port)
    sock.setblocking(True)
    sock.sendall(b"hello\n")
    received = bytes(sock.recv(64)).decode()
    sock.close()
    return received


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
