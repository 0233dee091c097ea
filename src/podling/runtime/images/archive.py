"""Load archives: docker-archive (`docker save`), oci-archive and plain root file systems (`docker export`).

Archives are read in place, by member name; nothing of them is extracted to a path of the archive's choosing.
A config is kept byte for byte, since its digest is the image's id. Layers stay as compressed as they came.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import msgspec

from podling.runtime.images import oci, platforms
from podling.runtime.images.errors import InvalidImageError, InvalidReferenceError
from podling.runtime.images.limits import Room
from podling.runtime.images.oci import Descriptor, History, ImageConfig, Index, Manifest, RootFS, RunConfig
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import Reference, parse_reference
from podling.runtime.images.store import ImageStore, Session
from podling.runtime.images.streams import open_plain
from podling.runtime.images.unpack import BoundedTarInfo

MAX_MEMBERS = 100_000  # of an archive: layers and documents, not files
_COPY_BYTES = 1 << 20


class _DockerImage(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """One entry of a docker-archive's manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


@dataclass(slots=True)
class _Archive:
    """A tar file by member name."""

    tar: tarfile.TarFile
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    def index(self) -> None:
        for member in self.tar:
            self.members[posixpath.normpath(member.name).lstrip("/")] = member
            if len(self.members) > MAX_MEMBERS:
                raise InvalidImageError(f"archive has more than {MAX_MEMBERS} members")

    def find(self, name: str) -> tarfile.TarInfo:
        """The regular member `name`; `docker save` makes repeated layers symlinks to the first."""
        path = posixpath.normpath(name)
        for _ in range(10):
            member = self.members.get(path)
            if member is None:
                break
            if member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                break
            path = posixpath.normpath(
                member.linkname
                if member.islnk()
                else posixpath.join(posixpath.dirname(path), member.linkname)
            )
        raise InvalidImageError(f"archive has no file {name!r}")

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self.tar.extractfile(self.find(name)))

    def read(self, name: str) -> bytes:
        if self.find(name).size > oci.MAX_DOCUMENT_BYTES:
            raise InvalidImageError(f"{name!r} in the archive is larger than {oci.MAX_DOCUMENT_BYTES} bytes")
        return self.open(name).read()


def load_archive(
    store: ImageStore, path: Path, names: Sequence[str] = ()
) -> list[tuple[ImageRecord, list[Reference]]]:
    """See `ImageStore.import_archive`; with each image the names it was loaded under."""
    given = [parse_reference(name) for name in names]
    with store.session() as session, _open_archive(path, session) as archive:
        if "index.json" in archive.members and oci.LAYOUT_FILE in archive.members:
            images = _read_oci(session, archive)
        elif "manifest.json" in archive.members:
            images = _read_docker(session, archive)
        else:
            raise InvalidImageError(
                f"{path} is neither a docker-archive nor an oci-archive: no manifest.json, no index.json",
                remedy="a root file system without image metadata is taken by `podling image import`",
            )
        if given and len(images) != 1:
            raise InvalidImageError(f"{path} holds {len(images)} images: a name can be given to one only")
        return [(session.install(manifest, given or found), given or found) for manifest, found in images]


@contextmanager
def _open_archive(path: Path, session: Session) -> Iterator[_Archive]:
    scratch, room = session.scratch, Room(session.scratch, session.limits)
    with open_plain(path) as stream:
        if stream.compressed:
            # Members are read out of order, so a compressed archive is laid out on disk first.
            plain = scratch / "archive.tar"
            with open(plain, "wb") as file:
                while chunk := stream.read(_COPY_BYTES):
                    room.take(len(chunk))
                    file.write(chunk)
            path = plain
    try:
        with tarfile.open(path, mode="r:", tarinfo=BoundedTarInfo) as tar:
            archive = _Archive(tar)
            archive.index()
            yield archive
    except (tarfile.TarError, EOFError, RecursionError) as err:
        raise InvalidImageError(f"{path} is not a valid tar archive: {err}") from err


def _read_docker(session: Session, archive: _Archive) -> list[tuple[Descriptor, list[Reference]]]:
    try:
        images = msgspec.json.decode(archive.read("manifest.json"), type=list[_DockerImage])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as err:
        raise InvalidImageError(f"manifest.json of the archive is not valid: {err}") from err
    result = []
    for image in images:
        config = session.add_blob(archive.read(image.config), oci.MEDIA_CONFIG)
        layers = [session.add_stream(archive.open(layer), oci.MEDIA_LAYER) for layer in image.layers or []]
        layers = [msgspec.structs.replace(layer, media_type=_layer_type(session, layer)) for layer in layers]
        manifest = session.add_blob(oci.encode(Manifest(config=config, layers=layers)), oci.MEDIA_MANIFEST)
        result.append((manifest, [parse_reference(tag) for tag in image.repo_tags or []]))
    return result


def _layer_type(session: Session, layer: Descriptor) -> str:
    """Newer Docker puts compressed layers into its archives, too."""
    with open_plain(session.blob_path(layer)) as stream:
        return oci.MEDIA_LAYER + (f"+{stream.compressed}" if stream.compressed in ("gzip", "zstd") else "")


def _read_oci(session: Session, archive: _Archive) -> list[tuple[Descriptor, list[Reference]]]:
    index = oci.decode(archive.read("index.json"), Index, "index.json of the archive")
    docker_tags: dict[str, list[Reference]] = {}
    found: dict[str, tuple[Descriptor, list[Reference]]] = {}
    for entry in index.manifests:
        manifest = _choose(archive, entry)
        if manifest is None:
            continue
        document = oci.decode(_verified(archive, manifest), Manifest, f"manifest {manifest.digest}")
        for blob in (document.config, *document.layers):
            if not session.has_blob(blob):
                session.add_stream(
                    archive.open(_blob_name(blob)), blob.media_type, digest=blob.digest, size=blob.size
                )
        stored = session.add_blob(_verified(archive, manifest), manifest.media_type)
        names = _oci_names(entry)
        if not names and "manifest.json" in archive.members:
            docker_tags = docker_tags or _docker_tags(archive)
            names = docker_tags.get(document.config.digest, [])
        known = found.setdefault(stored.digest, (stored, []))[1]
        known += [name for name in names if name not in known]
    if not found:
        raise InvalidImageError(f"archive has no image for linux/{platforms.host_architecture()}")
    return list(found.values())


def _blob_name(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _verified(archive: _Archive, blob: Descriptor) -> bytes:
    data = archive.read(_blob_name(blob))
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != blob.digest:
        raise InvalidImageError(f"blob {blob.digest} of the archive does not have that digest")
    return data


def _choose(archive: _Archive, entry: Descriptor, depth: int = 0) -> Descriptor | None:
    """The manifest for this machine: the entry itself, or one of the index it points to."""
    if entry.media_type in oci.INDEXES:
        if depth > 3:
            raise InvalidImageError("archive nests image indexes too deeply")
        inner = oci.decode(_verified(archive, entry), Index, f"index {entry.digest}")
        chosen = (_choose(archive, one, depth + 1) for one in inner.manifests)
        return next((one for one in chosen if one is not None), None)
    wanted = entry.platform
    if wanted is not None and (wanted.os, wanted.architecture) != ("linux", platforms.host_architecture()):
        return None
    return entry


def _oci_names(entry: Descriptor) -> list[Reference]:
    """containerd's annotation is a complete name; the specification's may be a name or just a tag."""
    notes = entry.annotations or {}
    if name := notes.get(oci.ANNOTATION_CONTAINERD_NAME):
        return [parse_reference(name)]
    name = notes.get(oci.ANNOTATION_REF_NAME, "")
    if ":" not in name and "/" not in name:
        return []
    try:
        return [parse_reference(name)]
    except InvalidReferenceError:
        return []


def _docker_tags(archive: _Archive) -> dict[str, list[Reference]]:
    """Names by config digest, from the manifest.json that Docker puts beside its OCI index."""
    images = msgspec.json.decode(archive.read("manifest.json"), type=list[_DockerImage])
    return {
        oci.sha256_digest(archive.read(image.config)): [parse_reference(tag) for tag in image.repo_tags or []]
        for image in images
    }


def import_rootfs(
    store: ImageStore,
    path: Path,
    name: str | None,
    *,
    config: RunConfig,
    message: str = "",
    created: str | None = None,
) -> ImageRecord:
    """Make an image of one layer from a root file system's tar, as `docker import` does."""
    references = [parse_reference(name)] if name else []
    with store.session() as session:
        with open_plain(path) as stream:
            layer = session.add_stream(stream, oci.MEDIA_LAYER)
        note = History(created=created, created_by="podling image import", comment=message or None)
        return install_single_layer(session, layer, references, config=config, created=created, note=note)


def install_single_layer(
    session: Session,
    layer: Descriptor,
    names: Sequence[Reference],
    *,
    config: RunConfig,
    created: str | None,
    note: History,
) -> ImageRecord:
    """Write config and manifest around one uncompressed layer, and install the image."""
    document = ImageConfig(
        created=created or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        architecture=platforms.host_architecture(),
        config=config,
        rootfs=RootFS(diff_ids=[layer.digest]),
        history=[note],
    )
    described = session.add_blob(oci.encode(document), oci.MEDIA_CONFIG)
    manifest = session.add_blob(oci.encode(Manifest(config=described, layers=[layer])), oci.MEDIA_MANIFEST)
    return session.install(manifest, names)
