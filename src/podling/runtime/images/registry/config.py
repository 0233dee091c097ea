"""Which registry or mirror to ask for a name: /etc/containers/registries.conf, as podman and CRI-O read it.

containers-registries.conf(5), version 2: `[[registry]]` tables with `prefix`, `location`, `insecure`,
`blocked`, `mirror-by-digest-only` and `[[registry.mirror]]` with `location`, `insecure`,
`pull-from-mirror`; files of `registries.conf.d` come after and replace tables of the same prefix.

Differs from upstream: short names are Docker's (`busybox` is `docker.io/library/busybox`), so that a manifest
means the same image on every node; `unqualified-search-registries` and aliases are not looked at. A registry
on 127.0.0.0/8, ::1 or localhost counts as insecure without configuration, as with Docker.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from podling.runtime.images.errors import PullError
from podling.runtime.images.reference import DEFAULT_DOMAIN, Reference

REGISTRIES_CONF = Path("/etc/containers/registries.conf")
DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One place that may have a repository."""

    host: str
    """`host[:port]` to connect to."""
    repository: str
    """Its name there."""
    insecure: bool = False
    """Unknown certificates and plain HTTP are taken."""
    mirror: bool = False

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


class _Mirror(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    location: str = ""
    insecure: bool = False
    pull_from_mirror: str = "all"


class _Registry(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirror: list[_Mirror] = []

    @property
    def scope(self) -> str:
        return self.prefix or self.location

    def rest_of(self, name: str) -> str | None:
        """What follows the prefix in `name` (`/team/app`), or None when it does not fit."""
        if self.scope.startswith("*."):
            host, slash, path = name.partition("/")
            inside = host.partition(":")[0].endswith(self.scope[1:])
            return f"{slash}{path}" if inside else None
        rest = name.removeprefix(self.scope)
        return rest if rest != name and rest[:1] in ("", "/", ":", "@") else None


class _File(msgspec.Struct, frozen=True, kw_only=True):
    registry: list[_Registry] = []
    registries: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class RegistriesConfig:
    registries: Sequence[_Registry] = ()

    def endpoints(self, reference: Reference) -> list[Endpoint]:
        """Mirrors first, the registry itself last. Raises `PullError` when it is blocked."""
        name = reference.repository
        fitting = [(len(one.scope), one) for one in self.registries if one.rest_of(name) is not None]
        if not fitting:
            return [_endpoint(name)]
        _, registry = max(fitting, key=lambda pair: pair[0])
        if registry.blocked:
            raise PullError(
                f"registry {registry.scope} is blocked in {REGISTRIES_CONF} or {REGISTRIES_CONF}.d"
            )
        rest = registry.rest_of(name) or ""
        by_digest = reference.digest is not None
        places = [
            _endpoint(mirror.location + rest, insecure=mirror.insecure, mirror=True)
            for mirror in registry.mirror
            if _serves(registry, mirror, by_digest=by_digest)
        ]
        location = registry.location + rest if registry.location else name
        return [*places, _endpoint(location, insecure=registry.insecure)]


def _serves(registry: _Registry, mirror: _Mirror, *, by_digest: bool) -> bool:
    if registry.mirror_by_digest_only or mirror.pull_from_mirror == "digest-only":
        return by_digest
    return not (by_digest and mirror.pull_from_mirror == "tag-only")


def _endpoint(name: str, *, insecure: bool = False, mirror: bool = False) -> Endpoint:
    domain, _, repository = name.partition("/")
    host = DOCKER_HUB_HOST if domain == DEFAULT_DOMAIN else domain
    return Endpoint(host=host, repository=repository, insecure=insecure or is_loopback(domain), mirror=mirror)


def is_loopback(domain: str) -> bool:
    """Whether `host[:port]` is this machine, so that what is sent there cannot be listened to on the way."""
    host = domain[1:].partition("]")[0] if domain.startswith("[") else domain.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_registries(path: Path | None = None) -> RegistriesConfig:
    """Read the files anew; blocks. Raises `PullError` for one that cannot be understood."""
    if path is None:
        path = Path(os.environ.get("CONTAINERS_REGISTRIES_CONF") or REGISTRIES_CONF)
    found: dict[str, _Registry] = {}
    try:
        drop_ins = sorted(path.with_name(f"{path.name}.d").glob("*.conf"))
    except OSError:
        drop_ins = []
    for file in (path, *drop_ins):
        for registry in _read(file):
            found[registry.scope] = registry
    return RegistriesConfig(list(found.values()))


def _read(path: Path) -> list[_Registry]:
    try:
        content = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeError) as err:
        raise PullError(f"cannot read {path}: {err}") from err
    try:
        file = msgspec.convert(tomllib.loads(content), type=_File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as err:
        raise PullError(f"{path} is not valid: {err}") from err
    if file.registries is not None:
        raise PullError(
            f"{path} is in the old version 1 format", remedy="containers-registries.conf(5) tells the new one"
        )
    for registry in file.registry:
        if not registry.scope or any(not mirror.location for mirror in registry.mirror):
            raise PullError(f"{path} has a registry or mirror without prefix and location")
    return file.registry
