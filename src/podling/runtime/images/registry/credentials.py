"""Credentials for a registry, and the files where docker, podman and skopeo keep them.

    {"auths": {"registry.example.com/team": {"auth": "BASE64 OF USER:PASSWORD"}},
     "credHelpers": {"other.example.com": "pass"}, "credsStore": "secretservice"}

containers-auth.json(5). The most specific key wins: `host/team/app`, then `host/team`, then `host`; Docker
Hub's key is `https://index.docker.io/v1/`. Secrets never get into a representation, a log or a command line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from podling.runtime.images.errors import PullError
from podling.runtime.images.reference import DEFAULT_DOMAIN, Reference

DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    """What CRI v1's `AuthConfig` holds: user and password, or a token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """Is traded for an access token (OAuth2 refresh token)."""
    token: str = field(default="", repr=False)
    """An access token, sent as it is."""
    server_address: str = ""
    """When set, only this registry gets to see it; else the registry of the image's name."""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.token)

    def is_for(self, host: str, own: str) -> bool:
        """Whether `host` may be shown these credentials for an image of the registry `own`: a mirror is not
        the registry they were given for. Docker Hub is `docker.io` here."""
        if not self.server_address:
            return host == own
        address = server_host(self.server_address)
        return host == (DEFAULT_DOMAIN if address in DOCKER_HUB_KEYS else address)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class AuthFile(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


def server_host(address: str) -> str:
    """`https://registry.example.com:5000/v2/` -> `registry.example.com:5000`."""
    return urlsplit(address if "://" in address else f"//{address}").netloc


def decode_auth(text: str) -> tuple[str, str]:
    """User and password of `auth`. Raises ValueError, without the secret in its text."""
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError):
        raise ValueError("the auth field is not base64 of USER:PASSWORD") from None
    if not colon:
        raise ValueError("the auth field is not base64 of USER:PASSWORD")
    return user, password.strip("\0")


def auth_files(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where to look, in skopeo's order; the first that knows the registry is taken."""
    if given := environ.get("REGISTRY_AUTH_FILE"):
        return [Path(given)]
    home = Path(environ.get("HOME") or "/root")
    run = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    return [
        Path(run) / "containers/auth.json",
        config / "containers/auth.json",
        docker / "config.json",
        home / ".dockercfg",
    ]


def read_auth_file(path: Path) -> AuthFile:
    """An absent file is empty. Raises `PullError`; its text never quotes the content."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return AuthFile()
    except OSError as err:
        raise PullError(f"cannot read {path}: {err.strerror}") from err
    try:
        if path.name == ".dockercfg":
            return AuthFile(auths=msgspec.json.decode(data, type=dict[str, _Entry]))
        return msgspec.json.decode(data or b"{}", type=AuthFile)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise PullError(f"{path} is not a valid auth.json") from None


async def find_credentials(reference: Reference, files: list[Path] | None = None) -> RegistryAuth | None:
    """Credentials for the image from the auth files. Raises `PullError`."""
    for path in auth_files() if files is None else files:
        file = await asyncio.to_thread(read_auth_file, path)
        if found := _find_entry(file, reference):
            try:
                return _to_auth(found)
            except ValueError as err:
                raise PullError(f"{path}: {err}") from None
        for key in _keys(reference):
            if (helper := file.cred_helpers.get(key)) and (auth := await _ask_helper(helper, key)):
                return auth
        if file.creds_store:
            server = DOCKER_HUB_KEYS[0] if reference.domain == DEFAULT_DOMAIN else reference.domain
            if auth := await _ask_helper(file.creds_store, server):
                return auth
    return None


def _keys(reference: Reference) -> Iterator[str]:
    """Most specific first."""
    name = reference.repository
    while "/" in name:
        yield name
        name = name.rpartition("/")[0]
    yield name
    if reference.domain == DEFAULT_DOMAIN:
        yield from DOCKER_HUB_KEYS


def _find_entry(file: AuthFile, reference: Reference) -> _Entry | None:
    plain = {_plain_key(key): entry for key, entry in file.auths.items()} | file.auths
    found = (plain.get(key) for key in _keys(reference))
    return next((entry for entry in found if entry is not None and entry != _Entry()), None)


def _plain_key(key: str) -> str:
    """Docker writes URLs for registries it logged into long ago: `https://host/v1/`."""
    if "://" not in key:
        return key
    parts = urlsplit(key)
    path = parts.path.rstrip("/")
    return parts.netloc + ("" if path in ("/v1", "/v2") else path)


def _to_auth(entry: _Entry) -> RegistryAuth:
    user, password = entry.username, entry.password
    if entry.auth and not user:
        user, password = decode_auth(entry.auth)
    return RegistryAuth(
        username=user,
        password=password,
        identity_token=entry.identitytoken,
        token=entry.registrytoken,
    )


class _HelperAnswer(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    username: str = ""
    secret: str = ""


async def _ask_helper(name: str, server: str) -> RegistryAuth | None:
    """`docker-credential-NAME get`: the server on its standard input, JSON on its standard output."""
    program = shutil.which(f"docker-credential-{name}")
    if program is None or "/" in name:
        return None
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_HELPER_TIMEOUT_S):
            out, _ = await process.communicate(server.encode())
    except TimeoutError:
        raise PullError(f"docker-credential-{name} did not answer within {_HELPER_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode != 0:
        return None  # it has none for this server
    try:
        answer = msgspec.json.decode(out, type=_HelperAnswer)
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise PullError(f"docker-credential-{name} gave no valid answer") from None
    if answer.username == "<token>":  # docker-credential-helpers: the secret is an identity token
        return RegistryAuth(identity_token=answer.secret)
    return RegistryAuth(username=answer.username, password=answer.secret)
