"""What makes a document a manifest we can run: its form, its media types, its size.

Refused in words: schema 1, artifacts that are no container images, layers that no registry may distribute
(foreign, non-distributable), encrypted layers, documents that are index and manifest at once.
"""

from __future__ import annotations

import msgspec

from podling.runtime.images import oci
from podling.runtime.images.errors import InvalidImageError
from podling.runtime.images.oci import Descriptor, Index, Manifest

CONFIG_TYPES = frozenset({oci.MEDIA_CONFIG, "application/vnd.docker.container.image.v1+json"})
_LAYER_TYPES = (oci.MEDIA_LAYER, "application/vnd.docker.image.rootfs.diff.tar")
_COMPRESSIONS = ("", "+gzip", ".gzip", "+zstd", ".zstd")
LAYER_TYPES = frozenset(f"{kind}{how}" for kind in _LAYER_TYPES for how in _COMPRESSIONS)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


class _Form(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Enough of a document to tell what it is."""

    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def read_document(data: bytes, what: str) -> Index | Manifest:
    """An index or a manifest. Raises `InvalidImageError`."""
    form = oci.decode(data, _Form, what)
    if form.schema_version == 1 or form.media_type.startswith(_SCHEMA_1) or form.fs_layers:
        raise InvalidImageError(
            f"{what} is of schema 1, which is no longer supported",
            remedy="push the image again with a tool of this decade",
        )
    is_index, is_manifest = form.manifests is not msgspec.UNSET, form.layers is not msgspec.UNSET
    if is_index and is_manifest:
        # Two readers could see two images in one digest (CVE-2021-41190).
        raise InvalidImageError(f"{what} is an index and a manifest at once")
    if is_index:
        return oci.decode(data, Index, what)
    return oci.decode(data, Manifest, what)


def check_manifest(manifest: Manifest, what: str) -> None:
    """Raises `InvalidImageError` unless config and layers are a container image's."""
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InvalidImageError(
            f"{what} is not a container image: its config has the media type {manifest.config.media_type!r}"
        )
    if manifest.config.size > oci.MAX_DOCUMENT_BYTES:
        raise InvalidImageError(f"config of {what} is larger than {oci.MAX_DOCUMENT_BYTES} bytes")
    for layer in manifest.layers:
        check_layer(layer)


def check_layer(layer: Descriptor) -> None:
    kind = layer.media_type
    if kind in LAYER_TYPES:
        return
    if "foreign" in kind or "nondistributable" in kind:
        raise InvalidImageError(
            f"layer {layer.digest} is not distributable ({kind!r}): registries do not hold it, "
            "and Podling does not fetch layers from elsewhere"
        )
    if kind.endswith("+encrypted"):
        raise InvalidImageError(f"layer {layer.digest} is encrypted ({kind!r}), which is not supported")
    raise InvalidImageError(f"layer {layer.digest} has the unknown media type {kind!r}")
