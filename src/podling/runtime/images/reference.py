"""Docker image references: `busybox` means `docker.io/library/busybox:latest`.

The grammar and the familiar short forms are those of the distribution project's `reference` package, so
that a name is accepted or refused here exactly when containerd and Docker accept or refuse it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from podling.runtime.images.errors import InvalidReferenceError

DEFAULT_DOMAIN = "docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
MAX_NAME_LENGTH = 255  # distribution reference, "RepositoryNameTotalLengthMax"

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference; at least one of `tag` and `digest` is set."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """`busybox`: as `docker image ls` prints it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix(OFFICIAL_PREFIX)

    def without_digest(self) -> Reference:
        return replace(self, digest=None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def parse_reference(text: str) -> Reference:
    """The normal form of `text`; raises `InvalidReferenceError` in the words users know from containerd."""

    def invalid(why: str) -> InvalidReferenceError:
        return InvalidReferenceError(f'failed to parse image reference "{text}": {why}')

    if _HEX_ID.fullmatch(text):
        raise invalid(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise invalid("invalid reference format: only sha256 digests are supported")
    # A colon after the last slash parts the tag; one before it is the registry's port.
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise invalid("invalid reference format")
    name = f"{head}{slash}{last}"
    domain, first_slash, path = name.partition("/")
    if not first_slash or not (
        "." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain
    ):
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = OFFICIAL_PREFIX + path
    if path.lower() != path:
        raise invalid("invalid reference format: repository name must be lowercase")
    if not _NAME.fullmatch(f"{domain}/{path}"):
        raise invalid("invalid reference format")
    if len(path) > MAX_NAME_LENGTH:
        raise invalid(f"repository name must not be more than {MAX_NAME_LENGTH} characters")
    return Reference(domain, path, tag or (None if digest else DEFAULT_TAG), digest or None)


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None
