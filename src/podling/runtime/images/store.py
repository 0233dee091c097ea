"""The machine's image store: names to images, each with one unpacked root file system.

One store serves every node and cluster on the machine, so several processes (agents, the command line) open
it at once; `layout.py` says how they keep out of each other's way. An image is in the store when it is
complete: its blobs verified, its layers flattened into `images/HEX/rootfs`, its name in the index. There is
no half-present image.

Reading (`resolve`, `list`, `rootfs_path`) costs one stat when nothing changed, and may be done on an event
loop. What changes the store blocks: call it in a thread. `pull` is a coroutine and does that itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from podling.runtime.images import manifests, naming, oci, partial
from podling.runtime.images.errors import (
    AmbiguousReferenceError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidImageError,
    InvalidReferenceError,
)
from podling.runtime.images.inroot import discard_tree
from podling.runtime.images.layout import Layout, write_whole
from podling.runtime.images.limits import Limits, Room
from podling.runtime.images.oci import Descriptor, ImageConfig, Manifest
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import Reference, parse_reference
from podling.runtime.images.streams import HashingReader, Reader, open_plain
from podling.runtime.images.unpack import Progress, Unpacker
from podling.runtime.images.usage import Usage, measure

if TYPE_CHECKING:
    from podling.runtime.images.download import Report
    from podling.runtime.images.registry.client import PullSettings
    from podling.runtime.images.registry.credentials import RegistryAuth

DEFAULT_IMAGE_DIR = Path("/var/lib/podling/images")

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{3,64})")
_COMPLETE = "image.json"


class _Installed(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """images/HEX/image.json: what is known of an unpacked image without its blobs."""

    size_bytes: int
    config: ImageConfig
    disk_bytes: int = 0
    """Blocks of the root file system; 0 in what older versions wrote."""
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The index as last read."""

    stamp: tuple[int, int, int] | None
    by_id: dict[str, ImageRecord]
    by_name: dict[str, ImageRecord]
    by_digest: dict[str, ImageRecord]


class Hold:
    """Keeps an image's root file system from being removed, until released or the process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """A process that inherits it holds the image too."""
        return self._fd

    def release(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class ImageStore:
    def __init__(
        self,
        image_dir: str | os.PathLike[str] = DEFAULT_IMAGE_DIR,
        *,
        limits: Limits | None = None,
        pull_settings: PullSettings | None = None,
    ) -> None:
        self.image_dir = Path(image_dir)
        self.layout = Layout(self.image_dir)
        self.limits = limits or Limits()
        self._pull_settings = pull_settings
        self._catalog: _Catalog | None = None
        self._installed: dict[str, _Installed] = {}

    # reading

    def resolve(self, ref: str) -> ImageRecord | None:
        """The image behind a name, `name@digest`, id or id prefix (3 hex digits or more), or None.

        Names win over id prefixes, as in Docker. Raises `InvalidReferenceError` when `ref` can be neither,
        and `AmbiguousReferenceError` when a prefix fits several images.
        """
        catalog = self._read()
        if match := _ID.fullmatch(ref):
            return catalog.by_id.get(match[1])
        prefix = _ID_PREFIX.fullmatch(ref)
        try:
            reference = parse_reference(ref)
        except InvalidReferenceError:
            if prefix is None:
                raise
        else:
            if reference.digest is not None:
                found = catalog.by_digest.get(f"{reference.repository}@{reference.digest}")
            else:
                found = catalog.by_name.get(str(reference))
            if found is not None or prefix is None:
                return found
        fitting = [record for hex_id, record in catalog.by_id.items() if hex_id.startswith(prefix[1])]
        if len(fitting) > 1:
            raise AmbiguousReferenceError(
                f"image id prefix {ref!r} is ambiguous: it fits {len(fitting)} images"
            )
        return fitting[0] if fitting else None

    def get(self, ref: str) -> ImageRecord:
        """Like `resolve`; raises `ImageNotFoundError`."""
        record = self.resolve(ref)
        if record is None:
            raise ImageNotFoundError(f"No such image: {ref}")
        return record

    def list(self) -> list[ImageRecord]:
        """All images, in the order they were added."""
        return list(self._read().by_id.values())

    def rootfs_path(self, record: ImageRecord) -> Path:
        """The unpacked root file system, to be used read-only as an overlay's lower directory."""
        return self.layout.images / record.hex_id / "rootfs"

    mount = rootfs_path

    def hold(self, record: ImageRecord) -> Hold:
        """Keep the root file system while a container uses it. The kernel frees a dead process's holds: an
        agent takes them again when it finds its containers after a restart. Raises `ImageNotFoundError` when
        it is being removed."""
        try:
            hold = Hold(self.layout.lock_fd(record.hex_id, shared=True, wait=False))
        except BlockingIOError:
            raise ImageNotFoundError(f"image {record.id} is being removed") from None
        if not (self.layout.images / record.hex_id / _COMPLETE).exists():
            hold.release()
            raise ImageNotFoundError(f"image {record.id} is no longer there")
        os.utime(hold.fd)
        return hold

    def last_used_s(self, record: ImageRecord) -> float:
        """When a container last began to use the image, on whatever node; before that, when it came. In
        seconds since the epoch."""
        used = self.layout.lock_time_s(record.hex_id)
        if used is not None:
            return used
        try:
            return os.stat(self.layout.images / record.hex_id / _COMPLETE).st_mtime
        except FileNotFoundError:
            return 0.0

    def usage(self) -> Usage:
        """What the store takes of the disk. Walks the blobs: call it in a thread."""
        total = measure(self.layout.blobs) + measure(self.layout.downloads)
        for record in self.list():
            installed = self._installed.get(record.hex_id)
            if installed is not None and not installed.inodes:
                found = measure(self.layout.images / record.hex_id)
                installed = msgspec.structs.replace(
                    installed, disk_bytes=found.disk_bytes, inodes=found.inodes
                )
                self._installed[record.hex_id] = installed
            total += Usage(installed.disk_bytes, installed.inodes) if installed else Usage()
        return total

    def add_reference(self, record: ImageRecord, owner: str) -> None:
        """Keep the image for a container that does not run, until `drop_reference`. Raises
        `ImageNotFoundError`."""
        with self.hold(record):
            place = self.layout.references / record.hex_id
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place / owner).touch()

    def drop_reference(self, owner: str) -> None:
        """Safe to call twice."""
        for path in self.layout.references.glob(f"*/{owner}"):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # another container's is still there
                path.parent.rmdir()

    def _owners(self, record: ImageRecord) -> Sequence[str]:
        try:
            return sorted(os.listdir(self.layout.references / record.hex_id))
        except FileNotFoundError:
            return []

    def _read(self) -> _Catalog:
        stamp = self.layout.index_stamp()
        if self._catalog is None or self._catalog.stamp != stamp:
            # The stamp is taken before reading: a change in between is seen by the next call.
            self._catalog = self._load(stamp)
        return self._catalog

    def _load(self, stamp: tuple[int, int, int] | None) -> _Catalog:
        names: dict[str, list[str]] = {}
        digests: dict[str, dict[str, None]] = {}
        manifests: dict[str, str] = {}
        for entry in self.layout.read_index().manifests:
            hex_id = naming.image_id_of(entry).removeprefix("sha256:")
            if not hex_id or self._read_installed(hex_id) is None:
                continue  # put here by another program, and not unpacked: not an image we could run
            manifests.setdefault(hex_id, entry.digest)
            found = names.setdefault(hex_id, [])
            if name := naming.name_of(entry):
                found.append(name)
            digests.setdefault(hex_id, {}).update(dict.fromkeys(naming.digests_of(entry)))
        by_id = {
            hex_id: ImageRecord(
                id=f"sha256:{hex_id}",
                repo_tags=tuple(names[hex_id]),
                repo_digests=tuple(digests[hex_id]),
                manifest_digest=manifest,
                size_bytes=self._installed[hex_id].size_bytes,
                config=self._installed[hex_id].config,
            )
            for hex_id, manifest in manifests.items()
        }
        by_name = {name: record for record in by_id.values() for name in record.repo_tags}
        by_digest: dict[str, ImageRecord] = {}
        for record in by_id.values():
            for name in record.repo_tags:
                # An image made here has no registry's digest; its own manifest's works as well.
                by_digest[f"{parse_reference(name).repository}@{record.manifest_digest}"] = record
            by_digest.update(dict.fromkeys(record.repo_digests, record))
        return _Catalog(stamp, by_id, by_name, by_digest)

    def _read_installed(self, hex_id: str) -> _Installed | None:
        found = self._installed.get(hex_id)
        if found is None:
            path = self.layout.images / hex_id / _COMPLETE
            try:
                found = oci.decode(path.read_bytes(), _Installed, str(path))
            except FileNotFoundError:
                return None
            self._installed[hex_id] = found
        return found

    # writing

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A span in which blobs are added and images installed; nothing of it is collected meanwhile."""
        self.layout.ensure()
        partial.sweep(self.layout.downloads)
        if self.layout.sweep():
            self.collect()
        try:
            with self.layout.lock("collect", shared=True), self.layout.scratch() as scratch:
                yield Session(self, scratch)
        except BaseException:
            self.collect()  # blobs of an image that did not come about
            raise

    def import_archive(
        self, path: str | os.PathLike[str], names: Sequence[str] = ()
    ) -> Sequence[ImageRecord]:
        """Load a docker-archive or oci-archive, possibly compressed. `names` replace the names in the archive
        when it holds one image. Raises `InvalidImageError`, OSError."""
        from podling.runtime.images.archive import load_archive

        return [record for record, _ in load_archive(self, Path(path), names)]

    async def pull(
        self,
        ref: str,
        auth: RegistryAuth | None = None,
        *,
        use_auth_files: bool = False,
        insecure: bool = False,
        report: Report | None = None,
    ) -> ImageRecord:
        """Fetch from a registry. Raises `PullError` (soon without a network), `InvalidReferenceError`,
        `InvalidImageError`. Cancelled or failed, it leaves no image, and its layers for the next pull."""
        from podling.runtime.images.pull import PullOptions, pull

        options = PullOptions(auth=auth, use_auth_files=use_auth_files, insecure=insecure)
        return await pull(self, ref, replace(options, report=report) if report else options)

    @property
    def pull_settings(self) -> PullSettings:
        if self._pull_settings is None:
            from podling.runtime.images.registry.client import PullSettings

            self._pull_settings = PullSettings()
        return self._pull_settings

    def tag(self, ref: str, name: str) -> ImageRecord:
        """Give the image a further name, taking it from the image that had it."""
        reference = parse_reference(name)
        with self.layout.lock("collect", shared=True):
            record = self.get(ref)
            self._rename(record, [reference], record.repo_digests)
        return self.get(record.id)

    def _rename(self, record: ImageRecord, names: Sequence[Reference], repo_digests: Iterable[str]) -> None:
        entries = self.layout.read_index().manifests
        manifest = next((entry for entry in entries if entry.digest == record.manifest_digest), None)
        if manifest is None:
            raise ImageNotFoundError(f"No such image: {record.id}")
        self._add_names(manifest, record.id, names, repo_digests)

    def remove(self, ref: str, *, force: bool = False) -> Sequence[str]:
        """Remove a name, and the image when it was the last one; by id, the image if it has at most one name
        or `force`.

        Returns lines as `docker image rm` prints. Raises `ImageNotFoundError`, `ImageInUseError`. Crash-safe:
        the index entry goes first, then the files.
        """
        record = self.get(ref)
        by_name = _is_name_of(ref, record)
        if by_name is not None and len(record.repo_tags) > 1:
            self._drop(lambda entry: naming.name_of(entry) == by_name)
            return [f"Untagged: {_familiar(by_name)}"]
        if len(record.repo_tags) > 1 and not force:
            raise ImageInUseError(
                f"conflict: unable to delete {record.hex_id[:12]} (must be forced) - "
                f"image is referenced in multiple repositories: {', '.join(map(_familiar, record.repo_tags))}"
            )
        try:
            with self.layout.lock(record.hex_id, wait=False):
                if owners := self._owners(record):
                    raise ImageInUseError(
                        f"conflict: unable to delete {record.hex_id[:12]} (cannot be forced) - "
                        f"image is being used by stopped container {owners[0][:12]}"
                    )
                self._drop(lambda entry: naming.image_id_of(entry) == record.id)
        except BlockingIOError:
            raise ImageInUseError(
                f"conflict: unable to delete {record.hex_id[:12]} (cannot be forced) - "
                f"image is being used by a container"
            ) from None
        self.collect()
        return [*(f"Untagged: {_familiar(name)}" for name in record.repo_tags), f"Deleted: {record.id}"]

    def _drop(self, gone: Callable[[Descriptor], bool]) -> None:
        self.layout.update_index(lambda entries: [entry for entry in entries if not gone(entry)])

    def collect(self) -> None:
        """Remove what no index entry names. Does nothing while a session runs: the next one finds it."""
        try:
            with self.layout.lock("collect", wait=False):
                self._collect()
        except BlockingIOError:
            return

    def _collect(self) -> None:
        keep_blobs = partial.unnamed(self.layout.downloads)
        keep_images: set[str] = set()
        for entry in self.layout.read_index().manifests:
            keep_blobs.add(entry.digest)
            keep_images.add(naming.image_id_of(entry).removeprefix("sha256:"))
            if entry.media_type in oci.INDEXES:
                return  # another program's; not understood well enough to delete beside it
            try:
                manifest = oci.decode(
                    self.layout.read_document(entry.digest), Manifest, f"manifest {entry.digest}"
                )
            except ImageNotFoundError:
                continue
            keep_blobs.update(blob.digest for blob in (manifest.config, *manifest.layers))
        for blob in self.layout.blobs.iterdir():
            if f"sha256:{blob.name}" not in keep_blobs:
                blob.unlink(missing_ok=True)
        for image in self.layout.images.iterdir():
            if image.name not in keep_images:
                self._remove_image(image)
        for leftover in self.image_dir.glob(".index.json.*"):
            leftover.unlink(missing_ok=True)

    def _remove_image(self, image: Path) -> None:
        self._installed.pop(image.name, None)
        try:
            with self.layout.lock(image.name, wait=False), self.layout.scratch() as scratch:
                # First out of sight in one step, then file by file.
                os.rename(image, scratch / image.name)
                self.layout.drop_lock_file(image.name)
        except BlockingIOError:
            return

    def _add_names(
        self, manifest: Descriptor, image_id: str, names: Sequence[Reference], repo_digests: Iterable[str]
    ) -> None:
        """Commit: from here on the image is in the store."""
        wanted = [str(name.without_digest()) for name in names if name.tag]
        digests = list(repo_digests)
        self.layout.update_index(
            lambda entries: naming.with_names(entries, manifest, image_id, wanted, digests)
        )


class Session:
    """Adds blobs and installs images; made by `ImageStore.session`."""

    def __init__(self, store: ImageStore, scratch: Path) -> None:
        self._store = store
        self._layout = store.layout
        self.scratch = scratch
        self.limits = store.limits
        self.room = Room(scratch, store.limits)
        """What all that is put on disk here may take together, before it is unpacked."""

    def add_blob(self, data: bytes, media_type: str) -> Descriptor:
        return self._layout.add_blob(data, media_type)

    def add_stream(
        self, source: Reader, media_type: str, *, digest: str | None = None, size: int | None = None
    ) -> Descriptor:
        return self._layout.add_stream(
            source, media_type, scratch=self.scratch, digest=digest, size=size, room=self.room
        )

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self._layout.has_blob(descriptor)

    def blob_path(self, descriptor: Descriptor) -> Path:
        return self._layout.blob_path(descriptor.digest)

    def name(
        self, record: ImageRecord, names: Sequence[Reference], repo_digests: Iterable[str]
    ) -> ImageRecord:
        """Give an image that is there its names. Raises `ImageNotFoundError` when it has been removed."""
        self._store._rename(record, names, [*record.repo_digests, *repo_digests])
        return self._store.get(record.id)

    def install(
        self, manifest: Descriptor, names: Sequence[Reference], repo_digests: Iterable[str] = ()
    ) -> ImageRecord:
        """Unpack the image whose manifest, config and layers are in the store, and give it its names.

        Idempotent; two processes installing the same image do the work once. Raises `InvalidImageError`.
        """
        document = oci.decode(
            self._layout.read_document(manifest.digest), Manifest, f"manifest {manifest.digest}"
        )
        manifests.check_manifest(document, f"manifest {manifest.digest}")
        raw_config = self._layout.read_document(document.config.digest)
        config = oci.decode(raw_config, ImageConfig, f"image config {document.config.digest}")
        if len(config.rootfs.diff_ids) != len(document.layers):
            raise InvalidImageError(
                f"manifest {manifest.digest} has {len(document.layers)} layers, "
                f"its config {len(config.rootfs.diff_ids)}"
            )
        image_id = document.config.digest
        hex_id = image_id.removeprefix("sha256:")
        place = self._layout.images / hex_id
        if (place / _COMPLETE).exists():
            self._check_layers(manifest, document, config)
        else:
            with self._layout.lock(f"install-{hex_id}"):
                try:
                    if not (place / _COMPLETE).exists():
                        self._unpack(document, config, place)
                finally:
                    self._layout.drop_lock_file(f"install-{hex_id}")
        self._layout.sync()
        self._store._add_names(manifest, image_id, names, repo_digests)
        return self._store.get(image_id)

    def _unpack(self, manifest: Manifest, config: ImageConfig, place: Path) -> None:
        image = self.scratch / f"image-{place.name}"
        discard_tree(image)
        rootfs = image / "rootfs"
        rootfs.mkdir(parents=True, mode=0o755)
        progress = self._unpack_layers(manifest, config, rootfs)
        found = measure(rootfs)
        installed = _Installed(
            size_bytes=progress.size_bytes, config=config, disk_bytes=found.disk_bytes, inodes=found.inodes
        )
        write_whole(image / _COMPLETE, oci.encode(installed))
        # Durable before it is visible: a power cut must not leave an image that looks complete.
        self._layout.sync()
        os.rename(image, place)

    def _unpack_layers(self, manifest: Manifest, config: ImageConfig, rootfs: Path) -> Progress:
        with Unpacker(rootfs, limits=self._store.limits) as unpacker:
            for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
                self._read_layer(layer, diff_id, unpacker.apply)
            return unpacker.progress

    def _read_layer(
        self, layer: Descriptor, diff_id: str, take: Callable[[HashingReader], None] | None = None
    ) -> None:
        """Raises `InvalidImageError` when it is not the layer the config means."""
        path = self._layout.blob_path(layer.digest)
        with open_plain(path, limit_bytes=self._store.limits.max_stream_bytes) as stream:
            if take is not None:
                take(stream)
            stream.drain()
        if stream.digest != diff_id:
            raise InvalidImageError(
                f"layer {layer.digest} unpacks to {stream.digest}, but the config says {diff_id}"
            )

    def _check_layers(self, manifest: Descriptor, document: Manifest, config: ImageConfig) -> None:
        """Of an image that is here already, but not by this manifest: who names somebody else's config must
        have its layers as well, or could have a private image by knowing what it is called."""
        if any(entry.digest == manifest.digest for entry in self._layout.read_index().manifests):
            return
        for layer, diff_id in zip(document.layers, config.rootfs.diff_ids, strict=True):
            self._read_layer(layer, diff_id)


def _is_name_of(ref: str, record: ImageRecord) -> str | None:
    """The complete name when `ref` is one of the record's names, None when it is an id or digest."""
    if _ID.fullmatch(ref):
        return None
    try:
        name = str(parse_reference(ref))
    except InvalidReferenceError:
        return None
    return name if name in record.repo_tags else None


def _familiar(name: str) -> str:
    reference = parse_reference(name)
    return f"{reference.familiar_repository}:{reference.tag}"
