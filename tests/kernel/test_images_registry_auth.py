"""Pulls that need credentials (htpasswd, bearer tokens) and certificates, from a real registry."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from kernel.registry_local import HTPASSWD, PASSWORD, USER, Pusher, needs_registry, run_registry
from podling.machine import pki
from podling.runtime.cri import messages as cri
from podling.runtime.images.errors import PullError
from podling.runtime.images.registry.client import PullSettings
from podling.runtime.images.registry.credentials import RegistryAuth
from podling.runtime.images.service import StoreImageService
from podling.runtime.images.store import ImageStore
from unit.runtime.images.layers import entry, layer

pytestmark = needs_registry

HELLO = layer(entry("hello", b"hi"))
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def make_store(tmp_path: Path, certs_dir: Path = Path("/nonexistent")) -> ImageStore:
    settings = PullSettings(
        certs_dirs=(certs_dir,), registries_conf=Path("/nonexistent"), backoff_s=0.01, attempts=2
    )
    return ImageStore(tmp_path / "images", pull_settings=settings)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of an image that only USER may have."""
    directory = tmp_path_factory.mktemp("private")
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "private", "path": str(directory / "htpasswd")}}
    with run_registry(directory, auth=auth) as address:
        Pusher(address, headers={"Authorization": f"Basic {BASIC}"}).image("team/app", "1", [HELLO])
        yield f"{address}/team/app:1"


@pytest.mark.parametrize(
    "auth",
    [
        cri.AuthConfig(username=USER, password=PASSWORD),
        cri.AuthConfig(auth=BASIC),
        cri.AuthConfig(auth=BASIC, server_address="{host}"),
        cri.AuthConfig(username=USER, password=PASSWORD, server_address="http://{host}/v1/"),
    ],
)
async def test_the_forms_of_a_cri_auth_config(private: str, tmp_path: Path, auth: cri.AuthConfig) -> None:
    host = private.partition("/")[0]
    auth = cri.AuthConfig(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        server_address=auth.server_address.replace("{host}", host),
    )
    service = StoreImageService(make_store(tmp_path))
    request = cri.PullImageRequest(image=cri.ImageSpec(image=private), auth=auth)
    assert (await service.pull_image(request)).image_ref.startswith("sha256:")


@pytest.mark.parametrize(
    "auth",
    [
        None,
        RegistryAuth(username=USER, password="wrong"),
        RegistryAuth(username=USER, password=PASSWORD, server_address="elsewhere.example.com"),
        RegistryAuth(token="made-up"),
    ],
)
async def test_without_the_right_credentials_the_image_is_denied_in_containerds_words(
    private: str, tmp_path: Path, auth: RegistryAuth | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(PullError) as caught:
        await make_store(tmp_path).pull(private, auth)
    assert (
        f'failed to resolve reference "{private}": pull access denied, repository does not exist or may '
        "require authorization: authorization failed"
    ) in str(caught.value)
    for text in (str(caught.value), repr(auth), caplog.text):
        assert "wrong" not in text
        assert PASSWORD not in text
        assert "made-up" not in text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("auth.json", "{host}"),
        ("auth.json", "{host}/team"),
        ("auth.json", "{name}"),
        ("config.json", "http://{host}/v1/"),
        (".dockercfg", "{host}"),
    ],
)
async def test_credentials_from_files_as_other_tools_leave_them(
    private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    key = key.format(host=private.partition("/")[0], name=private.rpartition(":")[0])
    auths: dict[str, object] = {key: {"auth": BASIC}, "elsewhere.example.com": {"auth": "bm86bm8="}}
    content = auths if name == ".dockercfg" else {"auths": auths}
    (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / name))
    store = make_store(tmp_path)
    assert await store.pull(private, use_auth_files=True)
    with pytest.raises(PullError, match="access denied"):
        await make_store(tmp_path / "other").pull(private)


async def test_credentials_from_a_helper_program(
    private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = private.partition("/")[0]
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\nread server; [ "$1 $server" = "get {host}" ] || exit 1\n'
        f'echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {host: "test"}}))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "config.json"))
    assert await make_store(tmp_path).pull(private, use_auth_files=True)


# bearer tokens


class TokenServer:
    """What `auth.token` of the registry trusts: answers as Docker Hub's does, remembers what it was asked."""

    def __init__(self, address: str, service: str) -> None:
        self._ca = pki.make_ca()
        self.service = service
        self.address = address
        self.asked: list[dict[str, str]] = []
        self.refresh_token = "long-lived"

    def bundle(self, directory: Path) -> Path:
        return self._ca.write(directory, "tokens")[0]

    def token(self, scope: str) -> str:
        access = []
        if scope:
            kind, name, actions = scope.split(":")
            access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        now = int(time.time())
        claims = {"iss": "test", "sub": USER, "aud": self.service, "nbf": now - 60, "exp": now + 600}
        chain = base64.b64encode(self._ca.cert.public_bytes(Encoding.DER)).decode()
        return jwt.encode(
            {**claims, "iat": now, "jti": "1", "access": access},
            self._ca.key,  # type: ignore[arg-type]  # pki's key type is wider
            algorithm="ES256",
            headers={"x5c": [chain]},
        )

    async def handle(self, request: web.Request) -> web.Response:
        fields = (
            dict(request.query)
            if request.method == "GET"
            else {name: str(value) for name, value in (await request.post()).items()}
        )
        self.asked.append(fields | {"authorization": request.headers.get("Authorization", "")})
        allowed = (
            request.headers.get("Authorization") == f"Basic {BASIC}"
            or fields.get("refresh_token") == self.refresh_token
        )
        if not allowed:
            return web.Response(status=401)
        return web.json_response({"access_token": self.token(fields.get("scope", ""))})


@asynccontextmanager
async def token_registry(directory: Path) -> AsyncIterator[tuple[str, TokenServer]]:
    """The name of an image in a registry that wants tokens, and the server that gives them."""
    runner_app = web.Application()
    server = TokenServer("", "test-registry")
    runner_app.router.add_route("*", "/token", server.handle)
    runner = web.AppRunner(runner_app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.address = f"127.0.0.1:{runner.addresses[0][1]}"
    auth = {
        "token": {
            "realm": f"http://{server.address}/token",
            "service": server.service,
            "issuer": "test",
            "rootcertbundle": str(server.bundle(directory)),
        }
    }
    try:
        with run_registry(directory, auth=auth) as address:
            bearer = {"Authorization": f"Bearer {server.token('repository:team/app:pull,push')}"}
            Pusher(address, headers=bearer).image("team/app", "1", [HELLO])
            yield f"{address}/team/app:1", server
    finally:
        await runner.cleanup()


async def test_bearer_tokens_are_fetched_with_a_password_an_identity_token_or_given(tmp_path: Path) -> None:
    async with token_registry(tmp_path) as (name, server):
        for number, auth in enumerate(
            (
                RegistryAuth(username=USER, password=PASSWORD),
                RegistryAuth(identity_token=server.refresh_token),
            )
        ):
            server.asked.clear()
            assert await make_store(tmp_path / str(number)).pull(name, auth)
            (asked,) = server.asked  # one token serves the whole pull
            assert (asked["scope"], asked["service"]) == ("repository:team/app:pull", server.service)
        server.asked.clear()
        given = RegistryAuth(token=server.token("repository:team/app:pull"))
        assert await make_store(tmp_path / "given").pull(name, given)
        assert server.asked == []
        for auth in (None, RegistryAuth(username=USER, password="no"), RegistryAuth(identity_token="no")):
            with pytest.raises(PullError, match=r"access denied.*failed to fetch token: .* 401"):
                await make_store(tmp_path / "denied").pull(name, auth)


# certificates; on an address where nothing is taken for granted, as it is on loopback

ELSEWHERE = "198.51.100.7"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """An address of this machine that is not loopback's."""
    subprocess.run(["ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo"], check=True)
    yield ELSEWHERE
    subprocess.run(["ip", "address", "del", f"{ELSEWHERE}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="module")
def tls_registry(elsewhere: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The name of an image behind TLS that asks for a client's certificate, and a certs.d for it."""
    directory = tmp_path_factory.mktemp("tls")
    ca = pki.make_ca()
    ca_cert, _ = ca.write(directory, "ca")
    address = [IPv4Address(elsewhere)]
    certificate, key = pki.issue(ca, "registry", addresses=address).write(directory, "registry")
    mine, my_key = pki.issue(ca, "me").write(directory, "me")
    tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(ca_cert)]}
    with run_registry(directory, host=elsewhere, http={"tls": tls}) as address_and_port:
        context = ssl.create_default_context(cafile=ca_cert)
        context.load_cert_chain(mine, my_key)
        Pusher(address_and_port, tls=context).image("app", "1", [HELLO])
        certs = directory / "certs.d" / address_and_port
        certs.mkdir(parents=True)
        shutil.copy(ca_cert, certs / "ca.crt")
        shutil.copy(mine, certs / "client.cert")
        shutil.copy(my_key, certs / "client.key")
        yield f"{address_and_port}/app:1", certs.parent


async def test_certs_d_names_the_authorities_and_the_clients_certificate(
    tls_registry: tuple[str, Path], tmp_path: Path
) -> None:
    name, certs_dir = tls_registry
    assert await make_store(tmp_path, certs_dir).pull(name)


async def test_an_unknown_authority_is_refused_in_words(
    tls_registry: tuple[str, Path], tmp_path: Path
) -> None:
    name, _ = tls_registry
    with pytest.raises(PullError, match="tls: failed to verify certificate: unable to get local issuer"):
        await make_store(tmp_path).pull(name)


async def test_a_certificate_that_is_none_is_named(tls_registry: tuple[str, Path], tmp_path: Path) -> None:
    name, _ = tls_registry
    broken = tmp_path / "certs.d" / name.partition("/")[0] / "broken.crt"
    broken.parent.mkdir(parents=True)
    broken.write_text("nothing")
    with pytest.raises(PullError, match=r"cannot use the certificate .*broken\.crt"):
        await make_store(tmp_path, tmp_path / "certs.d").pull(name)


async def test_plain_http_off_loopback_is_refused_unless_asked_for(elsewhere: str, tmp_path: Path) -> None:
    with run_registry(tmp_path, host=elsewhere) as address:
        Pusher(address).image("app", "1", [HELLO])
        with pytest.raises(PullError, match="server gave HTTP response to HTTPS client"):
            await make_store(tmp_path).pull(f"{address}/app:1")
        assert await make_store(tmp_path).pull(f"{address}/app:1", insecure=True)
        (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        settings = PullSettings(registries_conf=tmp_path / "registries.conf", attempts=1)
        assert await ImageStore(tmp_path / "by-file", pull_settings=settings).pull(f"{address}/app:1")


async def test_credentials_are_not_sent_to_a_realm_without_tls(elsewhere: str, tmp_path: Path) -> None:
    ca = pki.make_ca()
    ca_cert, _ = ca.write(tmp_path, "ca")
    pair = pki.issue(ca, "registry", addresses=[IPv4Address(elsewhere)]).write(tmp_path, "registry")
    auth = {
        "token": {
            "realm": "http://127.0.0.1:1/token",
            "service": "s",
            "issuer": "i",
            "rootcertbundle": str(ca_cert),
        }
    }
    tls = {"certificate": str(pair[0]), "key": str(pair[1])}
    with run_registry(tmp_path, host=elsewhere, http={"tls": tls}, auth=auth) as address:
        (tmp_path / "certs.d" / address).mkdir(parents=True)
        shutil.copy(ca_cert, tmp_path / "certs.d" / address / "ca.crt")
        with pytest.raises(PullError, match=r"will not send credentials to http://127\.0\.0\.1:1/token"):
            await make_store(tmp_path, tmp_path / "certs.d").pull(
                f"{address}/app:1", RegistryAuth(username=USER, password=PASSWORD)
            )
