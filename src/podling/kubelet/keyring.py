"""Which credentials fit an image: those of `imagePullSecrets`, then the node's own.

As upstream's `pkg/credentialprovider`: keys of a Docker configuration are URLs or host names, whose host
parts may hold globs (`*.registry.example.com`) and whose path is a prefix; several may fit one image, the
more specific first, and each is tried. Documentation, "Images", "Interpretation of config.json".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from podling.api import core_v1
from podling.runtime.cri import messages as cri

SECRET_CONFIG_JSON = "kubernetes.io/dockerconfigjson"
SECRET_CONFIG = "kubernetes.io/dockercfg"
_FIELDS = {SECRET_CONFIG_JSON: ".dockerconfigjson", SECRET_CONFIG: ".dockercfg"}
_HUB_KEY = "index.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    username: str = ""
    password: str = field(default="", repr=False)

    def to_cri(self) -> cri.AuthConfig:
        return cri.AuthConfig(username=self.username, password=self.password)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    username: str = ""
    password: str = ""
    auth: str = ""


class _ConfigJSON(msgspec.Struct, frozen=True, kw_only=True):
    auths: dict[str, _Entry] = {}


class KeyringError(ValueError):
    """A secret that is no Docker configuration. The text never quotes its content."""


class Keyring:
    """Credentials by key, looked up by an image's full name."""

    def __init__(self) -> None:
        self._found: dict[str, list[Credentials]] = {}

    def add_secret(self, secret: core_v1.Secret) -> None:
        """Secrets of other types say nothing. Raises `KeyringError`."""
        name = _FIELDS.get(secret.type or "")
        encoded = secret.data.get(name or "")
        if name is None or encoded is None:
            return
        what = f"secret {secret.metadata.namespace}/{secret.metadata.name}"
        try:
            data = base64.b64decode(encoded)
        except binascii.Error:
            raise KeyringError(f"{what}: {name} is not base64") from None
        self.add_config(data, what, bare=secret.type == SECRET_CONFIG)

    def add_config(self, data: bytes, what: str, *, bare: bool = False) -> None:
        """A `config.json`, or its bare `auths` (`.dockercfg`). Raises `KeyringError`."""
        try:
            auths: Mapping[str, _Entry]
            if bare:
                auths = msgspec.json.decode(data, type=dict[str, _Entry])
            else:
                auths = msgspec.json.decode(data, type=_ConfigJSON).auths
            for key, entry in auths.items():
                self._found.setdefault(_plain(key), []).append(_credentials(entry))
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
            raise KeyringError(f"{what} is not a valid Docker configuration") from None

    def lookup(self, repository: str) -> list[Credentials]:
        """For `docker.io/library/nginx` or `registry.example.com:5000/team/app`; without tag or digest."""
        found = [
            credentials
            for key in sorted(self._found, reverse=True)
            if _fits(key, repository)
            for credentials in self._found[key]
        ]
        if not found and repository.partition("/")[0] == "docker.io":
            found = self._found.get(_HUB_KEY, [])
        return list(dict.fromkeys(found))


def _credentials(entry: _Entry) -> Credentials:
    if not entry.auth:
        return Credentials(username=entry.username, password=entry.password)
    username, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    if not colon:
        raise ValueError("no password")
    return Credentials(username=username, password=password)


def _plain(key: str) -> str:
    """`https://index.docker.io/v1/` -> `index.docker.io`."""
    # Not urlsplit, to which the brackets of a glob are an IPv6 address.
    host, slash, path = key.partition("://")[2 if "://" in key else 0].partition("/")
    path = f"{slash}{path}"
    path = path[3:] if path.startswith(("/v1/", "/v2/")) else path
    return host + ("" if path == "/" else path)


def _fits(key: str, repository: str) -> bool:
    key_host, _, key_path = key.partition("/")
    host, _, path = repository.partition("/")
    (key_name, key_port), (name, port) = _split_port(key_host), _split_port(host)
    key_parts, parts = key_name.split("."), name.split(".")
    return (
        key_port == port
        and len(key_parts) == len(parts)
        and path.startswith(key_path)
        and all(fnmatchcase(part, glob) for glob, part in zip(key_parts, parts, strict=True))
    )


def _split_port(host: str) -> tuple[str, str]:
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    return (name, port) if name else (host, "")


def node_config_files(root_dir: Path) -> Iterable[tuple[Path, bool]]:
    """Where the node's own credentials may lie, and whether the file is a bare `.dockercfg`; the first
    that is there counts."""
    return (
        (root_dir / "config.json", False),
        (Path("/root/.docker/config.json"), False),
        (Path("/.docker/config.json"), False),
        (root_dir / ".dockercfg", True),
        (Path("/root/.dockercfg"), True),
        (Path("/.dockercfg"), True),
    )


def read_node_config(keyring: Keyring, root_dir: Path) -> None:
    """Add the node's own credentials; a file that cannot be used says nothing, as upstream. Blocks."""
    for path, bare in node_config_files(root_dir):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        try:
            keyring.add_config(data, str(path), bare=bare)
        except KeyringError:
            continue
        return
