"""Unpack a layer: apply one tar stream, with its whiteouts, to a root file system, trusting nothing in it.

What an entry may do: make or replace files, directories, symlinks, hard links and FIFOs below the root. What
it may not:
- lead out of the root: `..` in a name is refused, a leading `/` is dropped, symlinks on the way and the
  targets of hard links are resolved by the kernel inside the root (`inroot.py`);
- make device nodes: skipped, since a container's /dev is its own, and a 0:0 character device in a lower
  directory would be a whiteout to overlayfs;
- set `trusted.*` or `overlay.*` attributes, which steer overlayfs: only `security.capability` and `user.*`
  are kept;
- eat the disk or the memory: `Limits` bound bytes, entries and header sizes, and the free space is kept above
  a floor.

Semantics: OCI image spec, "Image Layer Filesystem Changeset". A whiteout hides what lower
layers brought, not what its own layer adds.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, cast

from podling.runtime.images.errors import InvalidImageError
from podling.runtime.images.inroot import ensure_dir, open_in_root, remove_tree
from podling.runtime.images.limits import Limits, Room
from podling.runtime.images.streams import Reader

WHITEOUT_PREFIX = ".wh."
OPAQUE_WHITEOUT = ".wh..wh..opq"
AUFS_PREFIX = ".wh..wh."  # other aufs bookkeeping, never content

XATTR_PREFIX = "SCHILY.xattr."
CAPABILITY_XATTR = "security.capability"

_COPY_BYTES = 1 << 20
_STREAM_BYTES = 512 << 9  # a multiple of the tar block
_MAX_OPEN_PARENTS = 64
_HEADER_TYPES = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
MAX_HEADER_BYTES = 1 << 20


@dataclass(slots=True)
class Progress:
    """What was unpacked so far; shared by the layers of one image, so that limits hold for the whole."""

    size_bytes: int = 0
    entries: int = 0
    name_bytes: int = 0
    skipped_devices: list[str] = field(default_factory=list)


class BoundedTarInfo(tarfile.TarInfo):
    """tarfile reads headers whole into memory, however many precede an entry: refuse what no honest archive
    has. Sparse maps are headers, too."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise InvalidImageError(f"layer entry {self.name!r} has a negative size")
        if self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES:
            raise InvalidImageError(f"layer has an extended header of {self.size} bytes")
        file = tar.fileobj
        tar.fileobj = file if isinstance(file, _HeaderReader) else _HeaderReader(file)
        try:
            member = super()._proc_member(tar)  # type: ignore[misc]  # the hook is not in typeshed
        finally:
            tar.fileobj = file
        held = sum(len(key) + len(value) for key, value in tar.pax_headers.items())
        if held > MAX_HEADER_BYTES:
            raise InvalidImageError(f"layer has global headers of {held} bytes")
        return member  # type: ignore[no-any-return]


class _HeaderReader:
    """The archive's stream while the headers of one entry are read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = MAX_HEADER_BYTES + (1 << 16)

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise InvalidImageError(f"layer has an entry with more than {MAX_HEADER_BYTES} bytes of headers")
        return self._file.read(size)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Directory(NamedTuple):
    """What is set on a directory when its layer is done."""

    name: str
    mode: int
    uid: int
    gid: int
    mtime: float
    pax_headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, member: tarfile.TarInfo) -> _Directory:
        xattrs = {key: value for key, value in member.pax_headers.items() if key.startswith(XATTR_PREFIX)}
        return cls(name, member.mode, member.uid, member.gid, float(member.mtime), xattrs or _NOTHING)


_NOTHING: Mapping[str, str] = {}


def clean_name(name: str) -> str:
    """`./usr//bin/` -> `usr/bin`; raises `InvalidImageError` for a name with `..`; the root itself is ''."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidImageError(f"layer entry {name!r} leads out of the image")
    return "/".join(parts)


class Unpacker:
    """Applies layers, lowest first, to the directory `root`. Use as a context manager."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        keep_directory_symlinks: bool = False,
        wanted: Callable[[str], bool] | None = None,
    ) -> None:
        """`keep_directory_symlinks`: a directory entry on top of a symlink to a directory keeps the symlink,
        as dpkg does (for Debian's merged /usr); layers replace it. `wanted` filters names (without leading
        `/`)."""
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._limits = limits or Limits()
        self._room = Room(self._root, self._limits)
        self._keep_symlinks = keep_directory_symlinks
        self._wanted = wanted
        self._as_root = os.geteuid() == 0
        self._parents: dict[str, int] = {}
        self._added: set[str] = set()
        self._ancestors: set[str] = set()
        self.progress = Progress()

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget_parents()
        os.close(self._root)

    def apply(self, stream: Reader) -> None:
        """Unpack one uncompressed tar stream. Raises `InvalidImageError`; OSError when the disk fails."""
        self._added, self._ancestors = set(), set()
        directories: list[_Directory] = []
        try:
            with tarfile.open(
                fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=_STREAM_BYTES, tarinfo=BoundedTarInfo
            ) as tar:
                for member in tar:
                    # tarfile keeps every member for random access: an archive of millions would fill the
                    # memory.
                    tar.members = []  # type: ignore[attr-defined]
                    self._count(member)
                    name = clean_name(member.name)
                    if self._wanted is None or self._wanted(name):
                        self._apply_entry(tar, member, name, directories)
        except (tarfile.TarError, UnicodeError, ValueError, OverflowError, EOFError, RecursionError) as err:
            raise InvalidImageError(f"layer is not a valid tar archive: {err}") from err
        finally:
            self._forget_parents()
        # Last, and deepest first: writing into a directory changes its mtime, and may need its write
        # permission.
        for directory in reversed(directories):
            self._finish_directory(directory)

    def _count(self, member: tarfile.TarInfo) -> None:
        progress, limits = self.progress, self._limits
        progress.entries += 1
        size = member.size if member.isreg() else 0
        progress.size_bytes += size
        if progress.entries > limits.max_entries:
            raise InvalidImageError(f"image has more than {limits.max_entries} files")
        if progress.size_bytes > limits.max_bytes:
            raise InvalidImageError(f"image unpacks to more than {limits.max_bytes} bytes")
        progress.name_bytes += len(member.name) + len(member.linkname)
        if progress.name_bytes > limits.max_name_bytes:
            raise InvalidImageError(f"image has more than {limits.max_name_bytes} bytes of file names")
        self._room.take(size)

    def _apply_entry(
        self,
        tar: tarfile.TarFile,
        member: tarfile.TarInfo,
        name: str,
        directories: list[_Directory],
    ) -> None:
        if not name:
            if not member.isdir():
                raise InvalidImageError("layer replaces the root directory by a file")
            directories.append(_Directory.of(name, member))
            return
        if len(self._parents) > _MAX_OPEN_PARENTS:
            self._forget_parents()
        head, _, base = name.rpartition("/")
        try:
            if base.startswith(WHITEOUT_PREFIX):
                self._whiteout(head, base)
                return
            parent = self._parent(head)
            if member.isdir():
                self._make_directory(parent, name, base)
                directories.append(_Directory.of(name, member))
            else:
                self._clear(parent, base)
                if not self._make_other(tar, member, parent, base):
                    return
        except (NotADirectoryError, FileExistsError, IsADirectoryError) as err:
            raise InvalidImageError(
                f"layer entry {member.name!r} does not fit in the tree: {err.strerror}"
            ) from err
        except OSError as err:
            if err.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EXDEV):
                raise InvalidImageError(f"layer entry {member.name!r}: {err.strerror}") from err
            raise
        self._added.add(name)
        while head and head not in self._ancestors:
            self._ancestors.add(head)
            head = head.rpartition("/")[0]

    def _make_other(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, base: str) -> bool:
        """Make anything but a directory; False when it was skipped."""
        if member.isreg():
            self._make_file(tar, member, parent, base)
        elif member.islnk():
            self._make_hard_link(member, parent, base)
        elif member.issym():
            os.symlink(member.linkname, base, dir_fd=parent)
            if self._as_root:
                os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            self._set_times(member, base, parent)
        elif member.isfifo():
            os.mkfifo(base, 0o600, dir_fd=parent)
            if self._as_root:
                os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(base, member.mode & 0o7777, dir_fd=parent)
            self._set_times(member, base, parent)
        elif member.isdev():
            self.progress.skipped_devices.append(member.name)
            return False
        else:
            raise InvalidImageError(f"layer entry {member.name!r} has the unknown type {member.type!r}")
        return True

    def _make_file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, base: str) -> None:
        source = tar.extractfile(member)
        fd = os.open(
            base, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
        )
        try:
            left = member.size
            while left and source is not None:
                chunk = source.read(min(_COPY_BYTES, left))
                if not chunk:
                    raise InvalidImageError(f"layer ends in the middle of {member.name!r}")
                left -= len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            if self._as_root:
                os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o7777)
            # After chown, which drops file capabilities.
            self._set_xattrs(fd, member)
            self._set_times(member, fd)
        finally:
            os.close(fd)

    def _make_hard_link(self, member: tarfile.TarInfo, parent: int, base: str) -> None:
        head, _, target = clean_name(member.linkname).rpartition("/")
        try:
            source = self._parent(head)
            if not target or stat.S_ISDIR(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise InvalidImageError(f"layer entry {member.name!r} is a hard link to a directory")
            os.link(target, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as err:
            raise InvalidImageError(
                f"layer entry {member.name!r} links to {member.linkname!r}, which is not in the image"
            ) from err

    def _make_directory(self, parent: int, name: str, base: str) -> None:
        try:
            # Private until finished: its real mode may deny us the writing of its children.
            os.mkdir(base, 0o700, dir_fd=parent)
            return
        except FileExistsError:
            mode = os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            return
        if stat.S_ISLNK(mode) and self._keep_symlinks:
            os.close(ensure_dir(self._root, name))
            return
        self._clear(parent, base)
        os.mkdir(base, 0o700, dir_fd=parent)

    def _finish_directory(self, directory: _Directory) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | (0 if self._keep_symlinks else os.O_NOFOLLOW)
        try:
            fd = open_in_root(self._root, directory.name, flags)
        except (FileNotFoundError, NotADirectoryError, OSError) as err:
            if isinstance(err, FileNotFoundError | NotADirectoryError) or err.errno == errno.ELOOP:
                return  # a later entry of the same layer replaced it
            raise
        try:
            if self._as_root:
                os.fchown(fd, directory.uid, directory.gid)
            os.fchmod(fd, directory.mode & 0o7777)
            self._set_xattrs(fd, directory)
            self._set_times(directory, fd)
        finally:
            os.close(fd)

    def _whiteout(self, head: str, base: str) -> None:
        if base == OPAQUE_WHITEOUT:
            self._hide_lower(head)
            return
        if base.startswith(AUFS_PREFIX):
            return
        hidden = base.removeprefix(WHITEOUT_PREFIX)
        if hidden in ("", ".", ".."):
            raise InvalidImageError(f"layer has the whiteout {base!r}, which leads out of its directory")
        name = f"{head}/{hidden}" if head else hidden
        if name in self._ancestors:
            self._hide_lower(name)
        elif name not in self._added and (parent := self._existing(head)) is not None:
            self._clear(parent, hidden)

    def _hide_lower(self, directory: str) -> None:
        """Opaque whiteout: remove the children that lower layers brought, keep those of this layer."""
        fd = self._existing(directory)
        if fd is None:
            return
        # `fd` is O_PATH, which cannot be listed.
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            for child in os.listdir(listing):
                name = f"{directory}/{child}" if directory else child
                if name in self._ancestors:
                    self._hide_lower(name)
                elif name not in self._added:
                    self._clear(listing, child)
        finally:
            os.close(listing)

    def _clear(self, parent: int, base: str) -> None:
        """Remove whatever is at `base`, never following it."""
        try:
            mode = os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            remove_tree(parent, base)
            # Cached descriptors may be of directories that are gone now. `parent` itself must stay open.
            self._forget_parents(keep=parent)
        else:
            os.unlink(base, dir_fd=parent)
            if stat.S_ISLNK(mode):
                self._forget_parents(keep=parent)

    def _parent(self, path: str) -> int:
        """An O_PATH descriptor of the directory, cached: entries of one directory follow each other in a
        tar."""
        fd = self._parents.get(path)
        if fd is None:
            fd = ensure_dir(self._root, path)
            self._parents[path] = fd
        return fd

    def _existing(self, path: str) -> int | None:
        """Like `_parent`, but makes nothing: None when there is no such directory."""
        fd = self._parents.get(path)
        if fd is None:
            try:
                fd = open_in_root(self._root, path, os.O_PATH | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return None
            self._parents[path] = fd
        return fd

    def _forget_parents(self, keep: int = -1) -> None:
        for path, fd in list(self._parents.items()):
            if fd != keep:
                os.close(fd)
                del self._parents[path]

    def _set_xattrs(self, fd: int, member: tarfile.TarInfo | _Directory) -> None:
        for key, value in member.pax_headers.items():
            if not key.startswith(XATTR_PREFIX):
                continue
            name = key.removeprefix(XATTR_PREFIX)
            capability = name == CAPABILITY_XATTR and self._as_root
            if not capability and (not name.startswith("user.") or name.startswith("user.overlay.")):
                continue
            try:
                os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
            except OSError as err:
                # Not supported here, or not ours to set: Docker and containerd go on without it, too.
                if err.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise InvalidImageError(
                        f"layer entry {member.name!r}: xattr {name}: {err.strerror}"
                    ) from err

    @staticmethod
    def _set_times(member: tarfile.TarInfo | _Directory, path: str | int, parent: int | None = None) -> None:
        # A pax mtime is a float. Far-off ones overflow the kernel's or ext4's time; clamp instead of failing.
        mtime = min(max(float(member.mtime), 0.0), 2.0**33)
        times = (int(mtime * 1e9), int(mtime * 1e9))
        if isinstance(path, int):
            os.utime(path, ns=times)
        else:
            os.utime(path, ns=times, dir_fd=parent, follow_symlinks=False)
