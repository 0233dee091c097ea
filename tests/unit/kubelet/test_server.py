"""The 10250 server: who may ask, logs, and the words of its errors."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from podling.kubelet.server.auth import subject

from .builders import container
from .conftest import NodeUnderTest


def client_tls(certificates: Path, who: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    if who:
        context.load_cert_chain(certificates / f"{who}.crt", certificates / f"{who}.key")
    return context


async def ask(node: NodeUnderTest, certificates: Path, path: str, who: str | None = "admin"):
    url = f"https://127.0.0.1:10250{path}"
    tls = client_tls(certificates, who)
    async with aiohttp.ClientSession() as session, session.get(url, ssl=tls) as response:
        return response.status, await response.text()


def test_the_subject_of_a_certificate() -> None:
    certificate = {"subject": ((("organizationName", "system:masters"),), (("commonName", "admin"),))}
    assert subject(certificate) == ("admin", {"system:masters"})
    assert subject(None) is None


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        (None, "/healthz", 401),
        (None, "/pods", 401),
        ("nobody", "/pods", 403),
        ("admin", "/pods", 200),
        ("admin", "/configz", 200),
        ("admin", "/metrics", 200),
    ],
)
async def test_only_the_clusters_own_get_in(node, certificates, who, path, status) -> None:
    assert (await ask(node, certificates, path, who))[0] == status


async def test_logs_are_served(node: NodeUnderTest, certificates: Path) -> None:
    pod = await node.create()
    await node.ready()
    (status,) = [s for _, s in node.runtime.containers.values()]
    path = Path(status.log_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"2025-01-31T12:00:00.0Z stdout F hello\n2025-01-31T12:00:01.0Z stdout F world\n")
    assert path.name == "0.log"
    assert pod.metadata.uid in str(path)
    base = "/containerLogs/default/web/main"
    assert await ask(node, certificates, base) == (200, "hello\nworld\n")
    assert await ask(node, certificates, f"{base}?tailLines=1") == (200, "world\n")


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/containerLogs/default/none/main", 404, 'pod "none_default" does not exist'),
        ("/containerLogs/default/web/none", 404, 'container "none" not found in pod "web_default"'),
        (
            "/containerLogs/default/web/main?previous=true",
            400,
            'previous terminated container "main" in pod "web" not found',
        ),
        ("/exec/default/web/none?command=sh", 404, "container none not found in pod web_default("),
    ],
)
async def test_errors_have_upstreams_words(node, certificates, path, status, text) -> None:
    await node.create()
    await node.ready()
    found, body = await ask(node, certificates, path)
    assert found == status
    assert text in body


async def test_a_waiting_container_has_no_log_yet(node: NodeUnderTest, certificates: Path) -> None:
    await node.create({**container(), "image": "absent:1", "imagePullPolicy": "Never"})

    async def told() -> None:
        status, body = await ask(node, certificates, "/containerLogs/default/web/main")
        assert status == 400
        assert body == (
            'container "main" in pod "web" is waiting to start: '
            'Container image "absent:1" is not present with pull policy of Never'
        )

    await node.eventually(told)
