"""The on-disk OCI layout that several processes share: blobs, the index of names, and the locks.

    image_dir/
      oci-layout  index.json  blobs/sha256/HEX      an OCI image layout that skopeo can read, too
      images/HEX/{image.json,rootfs/}               one unpacked, flattened root file system per image id
      locks/{index,collect,HEX,install-HEX}         flock files; HEX: its time is of the last use
      references/HEX/OWNER                          containers that have ended and may be started again
      downloads/HEX                                 blobs that are being fetched, see `partial.py`
      tmp/NAME/                                     half-made things; each holds a flock on its directory

Everything appears by rename, whole. A process killed anywhere leaves only a directory in tmp/, whose lock
died with it; the next writer removes it. Locks are flocks, so the kernel frees them with their holder:
- `index`, exclusive: reading, changing and renaming index.json. Readers need no lock.
- `collect`, shared: while a session adds blobs that no index entry names yet; exclusive: while they are
  collected.
- install-HEX, exclusive: while an image's root file system is made.
- HEX, shared: while a container uses the root file system; exclusive: while it is removed.
A lock file goes with its image, so whoever got a lock looks whether its file is still the one that is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from podling.runtime.images.errors import ImageNotFoundError, InvalidImageError
from podling.runtime.images.inroot import discard_tree, syncfs
from podling.runtime.images.limits import Room
from podling.runtime.images.oci import (
    LAYOUT_DOCUMENT,
    LAYOUT_FILE,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Index,
    decode,
    encode,
)
from podling.runtime.images.streams import Reader

_CHUNK = 1 << 20


class Layout:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.images = root / "images"
        self.downloads = root / "downloads"
        self.index_path = root / "index.json"
        self.references = root / "references"
        self._locks = root / "locks"
        self._tmp = root / "tmp"

    def ensure(self) -> None:
        """Make the directories. Root file systems hold set-uid programs: only root may look inside."""
        for directory, mode in (
            (self.root, 0o755),
            (self.blobs, 0o755),
            (self.images, 0o700),
            (self._locks, 0o755),
            (self._tmp, 0o700),
            (self.downloads, 0o700),
            (self.references, 0o700),
        ):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        if not (self.root / LAYOUT_FILE).exists():
            write_whole(self.root / LAYOUT_FILE, LAYOUT_DOCUMENT)

    # locks

    @contextmanager
    def lock(self, name: str, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
        """Hold a flock. Raises BlockingIOError when it is taken and `wait` is false."""
        fd = self.lock_fd(name, shared=shared, wait=wait)
        try:
            yield
        finally:
            os.close(fd)

    def lock_fd(self, name: str, *, shared: bool = False, wait: bool = True) -> int:
        """The descriptor of a held flock; closing it, or the death of the process, frees the lock."""
        self._locks.mkdir(parents=True, exist_ok=True)
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            fd = os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, operation)
                if is_at(fd, self._locks / name):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def lock_time_s(self, name: str) -> float | None:
        """When the lock file was last touched, in seconds since the epoch."""
        try:
            return os.stat(self._locks / name).st_mtime
        except FileNotFoundError:
            return None

    def drop_lock_file(self, name: str) -> None:
        """For a lock that is held exclusively, when what it guards is gone."""
        (self._locks / name).unlink(missing_ok=True)

    # the index

    def index_stamp(self) -> tuple[int, int, int] | None:
        """Changes whenever index.json does; None when there is none."""
        try:
            found = os.stat(self.index_path)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read_index(self) -> Index:
        try:
            data = self.index_path.read_bytes()
        except FileNotFoundError:
            return Index()
        return decode(data, Index, str(self.index_path))

    def update_index(self, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
        with self.lock("index"):
            index = self.read_index()
            manifests = change(list(index.manifests))
            if manifests != index.manifests:
                write_whole(self.index_path, encode(Index(manifests=manifests)))

    # blobs

    def blob_path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def read_document(self, digest: str) -> bytes:
        """A small blob (manifest, config), verified."""
        try:
            with open(self.blob_path(digest), "rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
        except FileNotFoundError:
            raise ImageNotFoundError(f"blob {digest} is not in the store") from None
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise InvalidImageError(
                f"blob {digest} is damaged or too large", remedy="remove and load the image again"
            )
        return data

    def add_blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self.blob_path(digest)
        if not path.exists():
            write_whole(path, data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def add_stream(
        self,
        source: Reader,
        media_type: str,
        *,
        scratch: Path,
        digest: str | None = None,
        size: int | None = None,
        room: Room | None = None,
    ) -> Descriptor:
        """Copy a blob in by way of the directory `scratch`; a given `digest` or `size` must turn out true.
        `room` bounds what it may take."""
        found = hashlib.sha256()
        total = 0
        with tempfile.NamedTemporaryFile(dir=scratch, prefix="blob-", delete=False) as file:
            try:
                while chunk := source.read(_CHUNK):
                    found.update(chunk)
                    total += len(chunk)
                    if room is not None:
                        room.take(len(chunk))
                    if size is not None and total > size:
                        raise InvalidImageError(f"blob {digest} is longer than its {size} bytes")
                    file.write(chunk)
                file.flush()
                actual = f"sha256:{found.hexdigest()}"
                if digest not in (None, actual) or size not in (None, total):
                    raise InvalidImageError(
                        f"blob does not match its descriptor: expected {digest} ({size} bytes), "
                        f"got {actual} ({total} bytes)"
                    )
                os.fchmod(file.fileno(), 0o644)
                os.rename(file.name, self.blob_path(actual))
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        return Descriptor(media_type=media_type, digest=actual, size=total)

    def has_blob(self, descriptor: Descriptor) -> bool:
        try:
            return os.stat(self.blob_path(descriptor.digest)).st_size == descriptor.size
        except FileNotFoundError:
            return False

    # temporary directories

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private directory on the same file system, so that renames out of it are atomic."""
        with self.lock("index"):
            path = Path(tempfile.mkdtemp(dir=self._tmp))
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            discard_tree(path)
            os.close(fd)

    def sweep(self) -> int:
        """Remove what killed processes left in tmp/. Call while holding no scratch. Returns how many."""
        with self.lock("index"):
            stale = [fd_path for entry in self._tmp.iterdir() if (fd_path := self._claim(entry))]
        for path, fd in stale:
            if path.is_dir():
                discard_tree(path)
            else:
                path.unlink(missing_ok=True)
            os.close(fd)
        return len(stale)

    @staticmethod
    def _claim(path: Path) -> tuple[Path, int] | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return path, fd

    def sync(self) -> None:
        """Put blobs and root file systems on disk before the index names them."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it, also after a crash, sees the old content or the new, whole."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
