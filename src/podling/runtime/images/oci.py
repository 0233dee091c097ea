"""OCI image documents as types: descriptor, index, manifest, config, and the Docker forms of the same.

Unknown fields are tolerated, as the specification asks of readers. Documents are kept byte for byte as they
came, because their digests are their names; these types are for reading, and for writing our own.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from podling.runtime.images.errors import InvalidImageError

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({MEDIA_INDEX, MEDIA_DOCKER_LIST})

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_CONTAINERD_NAME = "io.containerd.image.name"
LAYOUT_FILE = "oci-layout"
LAYOUT_DOCUMENT = b'{"imageLayoutVersion":"1.0.0"}'

# Registries refuse manifests above 4 MiB (distribution spec, "Pushing Manifests"); configs are smaller.
MAX_DOCUMENT_BYTES = 4 << 20

T = TypeVar("T")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """OCI image spec, "Content Descriptors". `size` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"unsupported digest {self.digest!r}")
        if self.size < 0:
            raise ValueError(f"negative size in the descriptor of {self.digest}")


class Index(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    schema_version: int = 2
    media_type: str = MEDIA_INDEX
    manifests: list[Descriptor] = msgspec.field(default_factory=list)


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    schema_version: int = 2
    media_type: str = MEDIA_MANIFEST
    config: Descriptor
    layers: list[Descriptor]


class RunConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """OCI image spec, "Image Configuration", the `config` object: what a container starts with."""

    user: str | None = None
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "layers"
    diff_ids: list[str] = msgspec.field(default_factory=list)


class History(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """OCI image spec, "Image Configuration". `created` is RFC 3339."""

    created: str | None = None
    author: str | None = None
    architecture: str = ""
    os: str = "linux"
    variant: str | None = None
    config: RunConfig | None = None
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[History] | None = None


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode(document: msgspec.Struct) -> bytes:
    """JSON bytes with sorted keys, so that equal documents have equal digests."""
    return msgspec.json.encode(document, order="sorted")


def decode(data: bytes, kind: type[T], what: str) -> T:
    """Parse `data`; `what` names the document in the error."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidImageError(f"{what} is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as err:
        raise InvalidImageError(f"{what} is not valid: {err}") from err
