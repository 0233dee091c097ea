"""`podling image build`: an OCI image of one layer from Debian packages, a directory and copied files.

The same input gives the same digests: the layer's names are sorted and its times clamped to those of the
newest package file, and the image is dated by it. The recipe's digest is kept as a label, so that a repeated
build can tell it has nothing to do, without asking apt.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import msgspec

from podling.runtime.images import oci
from podling.runtime.images.archive import install_single_layer
from podling.runtime.images.errors import BuildError
from podling.runtime.images.layout import Layout
from podling.runtime.images.oci import Descriptor, History, RunConfig
from podling.runtime.images.packages import DEFAULT_CACHE_DIR, fetch_packages
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import Reference, parse_reference
from podling.runtime.images.skeleton import (
    DEFAULT_EXCLUDES,
    after_packages,
    before_packages,
    is_wanted,
    run_ldconfig,
)
from podling.runtime.images.store import ImageStore, Session
from podling.runtime.images.tree import Entries, newest_file_s, write_copy, write_layer
from podling.runtime.images.unpack import Unpacker

LABEL_RECIPE = "io.podling.build.recipe"

# Raise when the builder makes something else of the same recipe.
_BUILDER_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file the recipe writes. `target` makes it a symlink instead."""

    path: str
    content: str = ""
    target: str = ""
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """What goes into an image, and what it starts."""

    names: tuple[str, ...]
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Packages to leave out although something depends on them."""
    excludes: tuple[str, ...] = ()
    """Further glob patterns of package files to leave out."""
    from_dir: Path | None = None
    copies: tuple[tuple[Path, str], ...] = ()
    files: tuple[File, ...] = ()
    compile_python: tuple[str, ...] = ()
    """Glob patterns of directories whose Python modules get byte code, made by the image's own
    interpreter."""
    config: RunConfig = field(default_factory=RunConfig)

    def recipe_digest(self) -> str:
        """Names the recipe with the files it copies, but not the packages' versions."""
        found = hashlib.sha256(_BUILDER_VERSION.encode())
        for part in (self.packages, self.without, self.excludes, self.files, self.compile_python):
            found.update(repr(part).encode())
        found.update(oci.encode(self.config))
        for source, destination in self.copies:
            with tempfile.TemporaryFile() as file:
                write_copy(source, destination, file, mtime_s=0)
                file.seek(0)
                found.update(hashlib.file_digest(file, "sha256").digest())
        return f"sha256:{found.hexdigest()}"


def build(
    store: ImageStore,
    spec: BuildSpec,
    *,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    epoch_s: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ImageRecord:
    """Build and install. `epoch_s` (SOURCE_DATE_EPOCH) dates the image. Raises `BuildError`,
    `InvalidReferenceError`."""
    names = [parse_reference(name) for name in spec.names]
    if not (spec.packages or spec.from_dir or spec.copies or spec.files):
        raise BuildError("nothing to build from", remedy="give --package, --from-dir or --copy")
    for source, _ in spec.copies:
        if not source.exists():
            raise BuildError(f"cannot copy {source}: no such file or directory")
    store.layout.ensure()
    debs: list[Path] = []
    if spec.packages:
        progress(f"packages: {' '.join(spec.packages)}")
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Layout(cache_dir).lock("packages"):
            debs = fetch_packages(spec.packages, cache_dir, without=spec.without)
    with store.session() as session:
        root = session.scratch / "root"
        root.mkdir(mode=0o755)
        progress(f"unpack: {len(debs)} packages")
        epoch_s = _fill(root, spec, debs, session.scratch, epoch_s)
        with tempfile.TemporaryFile(dir=session.scratch) as file:
            write_layer(root, file, epoch_s=epoch_s)
            file.seek(0)
            layer = session.add_stream(file, oci.MEDIA_LAYER)
        return _install(session, spec, names=names, layer=layer, epoch_s=epoch_s)


def build_if_changed(
    store: ImageStore, spec: BuildSpec, *, progress: Callable[[str], None] = lambda _: None, **options: Any
) -> tuple[ImageRecord, bool]:
    """Build unless the store has an image of this name and recipe; the flag says whether it was built."""
    label = {LABEL_RECIPE: spec.recipe_digest()}
    found = store.resolve(spec.names[0])
    if found is not None and (found.run_config.labels or {}).get(LABEL_RECIPE) == label[LABEL_RECIPE]:
        return found, False
    config = msgspec.structs.replace(spec.config, labels={**(spec.config.labels or {}), **label})
    return build(store, replace(spec, config=config), progress=progress, **options), True


def _fill(root: Path, spec: BuildSpec, debs: Sequence[Path], scratch: Path, epoch_s: int | None) -> int:
    """Lay out the root file system below `root`; returns the time that dates it."""
    excludes = DEFAULT_EXCLUDES + spec.excludes
    wanted = (lambda name: is_wanted(name, excludes)) if debs else None
    with Unpacker(root, keep_directory_symlinks=True, wanted=wanted) as unpacker:
        if debs:
            unpacker.apply(before_packages(0).stream())
        for deb in debs:
            with _content_of(deb) as stream:
                unpacker.apply(stream)
    if epoch_s is None:
        epoch_s = _date(root, spec)
    with Unpacker(root, keep_directory_symlinks=True) as unpacker:
        if spec.from_dir is not None:
            with tempfile.TemporaryFile(dir=scratch) as file:
                write_layer(spec.from_dir, file, epoch_s=epoch_s)
                file.seek(0)
                unpacker.apply(file)
        if debs:
            unpacker.apply(after_packages(root, epoch_s).stream())
        unpacker.apply(_files(spec, epoch_s).stream())
        for source, destination in spec.copies:
            with tempfile.TemporaryFile(dir=scratch) as file:
                write_copy(source, destination, file, mtime_s=epoch_s)
                file.seek(0)
                unpacker.apply(file)
    if debs:
        run_ldconfig(root)
    if spec.compile_python:
        _compile_python(root, spec.compile_python)
    return epoch_s


def _date(root: Path, spec: BuildSpec) -> int:
    """The newest package file, which is the same wherever these packages are built from, else the newest
    input file."""
    if spec.packages:
        return newest_file_s(root)
    sources = [*([spec.from_dir] if spec.from_dir else []), *(source for source, _ in spec.copies)]
    return max(newest_file_s(source) for source in sources) if sources else 0


def _files(spec: BuildSpec, epoch_s: int) -> Entries:
    entries = Entries(epoch_s)
    for file in spec.files:
        if file.target:
            entries.symlink(file.path, file.target)
        else:
            entries.file(file.path, file.content, file.mode)
    return entries


@contextmanager
def _content_of(deb: Path) -> Iterator[IO[bytes]]:
    """The uncompressed data.tar of a package."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
            while process.stdout.read(1 << 16):
                pass
        except BaseException:
            process.kill()
            raise
        message = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise BuildError(f"cannot read package {deb.name}: {message}")


def _compile_python(root: Path, paths: Sequence[str]) -> None:
    """Byte code, so that a container that may not write to /usr does not compile at each start.

    The image's interpreter does it: byte code belongs to one version of Python. It runs in a chroot without a
    network. Unchecked hashes and a fixed hash seed keep the result reproducible.
    """
    python = next((root / "usr/bin").glob("python3.*[0-9]"), None)
    if python is None:
        raise BuildError("cannot compile Python files: the image has no python3")
    found = sorted(path for pattern in paths for path in root.glob(pattern.lstrip("/")) if path.is_dir())
    inside = [f"/{path.relative_to(root)}" for path in found]
    command = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "chroot",
        str(root),
        f"/usr/bin/{python.name}",
    ]
    result = subprocess.run(
        [*command, "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *inside],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONHASHSEED": "0"},
        timeout=300,
    )
    if result.returncode != 0:
        raise BuildError(f"cannot compile Python files: {(result.stdout + result.stderr).strip()[-500:]}")


def _install(
    session: Session, spec: BuildSpec, *, names: Sequence[Reference], layer: Descriptor, epoch_s: int
) -> ImageRecord:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))
    parts = [f"packages {' '.join(spec.packages)}"] if spec.packages else []
    parts += ["directory"] if spec.from_dir else []
    parts += [f"copy {destination}" for _, destination in spec.copies]
    note = History(created=created, created_by=f"podling image build: {', '.join(parts) or 'files'}")
    return install_single_layer(session, layer, names, config=spec.config, created=created, note=note)
