"""TLS with client certificates, tokens, and connections that are kept: against a real TLS server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from podling.client.errors import TransportError
from podling.client.http import ClientConfig, HttpTransport
from podling.machine.pki import issue, make_ca

Pair = tuple[bytes, bytes]
"""Certificate and key, PEM."""


@pytest.fixture(scope="module")
def pki() -> dict[str, Pair]:
    ca = make_ca()
    pairs = {
        "ca": ca,
        "server": issue(ca, "server", addresses=[IPv4Address("127.0.0.1")]),
        "client": issue(ca, "admin"),
    }
    return {name: (pair.cert_pem, pair.key_pem) for name, pair in pairs.items()}


@pytest.fixture
async def url(pki: dict[str, Pair], tmp_path: Path) -> AsyncIterator[str]:
    """A server that demands a client certificate and answers who it is and through which connection."""
    files = tmp_path / "server.pem"
    files.write_bytes(b"".join(pki["server"]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=pki["ca"][0].decode())
    context.load_cert_chain(files)
    context.verify_mode = ssl.CERT_REQUIRED

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        peer = request.transport.get_extra_info("peername")
        return web.json_response(
            [dict(s[0] for s in subject)["commonName"], peer[1], request.headers.get("Authorization")]
        )

    app = web.Application()
    app.router.add_get("/{path:.*}", who)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    yield f"https://127.0.0.1:{server.port}"
    await server.close()


async def ask(config: ClientConfig, times: int = 1) -> list[bytes]:
    transport = HttpTransport(config)
    try:
        return [(await transport.request("GET", "/who")).body for _ in range(times)]
    finally:
        await transport.close()


async def test_certificates_may_be_bytes_or_files(url: str, pki: dict[str, Pair], tmp_path: Path) -> None:
    ca, (cert, key) = pki["ca"][0], pki["client"]
    for name, data in {"ca": ca, "cert": cert, "key": key}.items():
        (tmp_path / name).write_bytes(data)
    from_bytes = ClientConfig(server=url, ca_data=ca, cert_data=cert, key_data=key)
    from_files = ClientConfig(
        server=url, ca_file=tmp_path / "ca", cert_file=tmp_path / "cert", key_file=tmp_path / "key"
    )
    for config in (from_bytes, from_files):
        assert b'"admin"' in (await ask(config))[0]


async def test_one_connection_serves_many_requests(url: str, pki: dict[str, Pair]) -> None:
    config = ClientConfig(
        server=url, ca_data=pki["ca"][0], cert_data=pki["client"][0], key_data=pki["client"][1]
    )
    assert len(set(await ask(config, times=5))) == 1


async def test_a_token_file_is_read_at_every_request(url: str, pki: dict[str, Pair], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    transport = HttpTransport(
        ClientConfig(
            server=url,
            ca_data=pki["ca"][0],
            cert_data=pki["client"][0],
            key_data=pki["client"][1],
            token_file=token,
        )
    )
    assert b"Bearer one" in (await transport.request("GET", "/")).body
    token.write_text("two\n")
    assert b"Bearer two" in (await transport.request("GET", "/")).body
    await transport.close()


async def test_an_unknown_authority_is_a_transport_error(url: str) -> None:
    stranger = make_ca("stranger").cert_pem
    with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
        await ask(ClientConfig(server=url, ca_data=stranger))


async def test_verification_can_be_switched_off(url: str, pki: dict[str, Pair]) -> None:
    config = ClientConfig(
        server=url,
        insecure_skip_tls_verify=True,
        cert_data=pki["client"][0],
        key_data=pki["client"][1],
    )
    assert b'"admin"' in (await ask(config))[0]


async def test_proxies_of_the_environment_are_ignored(
    url: str, pki: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    config = ClientConfig(
        server=url, ca_data=pki["ca"][0], cert_data=pki["client"][0], key_data=pki["client"][1]
    )
    assert b'"admin"' in (await ask(config))[0]
