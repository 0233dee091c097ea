"""Debian packages for a build: the closure that apt computes, downloaded once, from the host's own apt
sources.

apt is asked to install into a machine that has nothing but a few packages which exist for maintainer scripts
only (`NOT_IN_IMAGES`): we run no maintainer scripts, so images do without debconf, dpkg and their kin. apt
resolves versions, virtual packages and signatures as always; nothing on the host changes. Downloads stay in a
cache directory, so that a repeated build needs no network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podling.runtime.images.errors import BuildError
from podling.runtime.images.layout import write_whole

DEFAULT_CACHE_DIR = Path("/var/cache/podling/packages")

NOT_IN_IMAGES = (
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "install-info",
    "lsb-base",
    "sysvinit-utils",
    "ucf",
)
_PROVIDES = {"debconf": "debconf-2.0"}

# 'http://…/x.deb' x_1.0_amd64.deb 1234 MD5Sum:…; the sum is not always there.
_URI_LINE = re.compile(r"^'[^']+' (?P<name>[^\s/]+\.deb) (?P<size>\d+)", re.MULTILINE)
_APT_TIMEOUT_S = 600
_APT_LISTS = Path("/var/lib/apt/lists")
_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=[\w.+:~-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One archive apt would fetch."""

    name: str
    size: int


def fetch_packages(packages: Sequence[str], cache_dir: Path, *, without: Sequence[str] = ()) -> list[Path]:
    """The .deb files of `packages` and all they depend on (no Recommends), in a stable order.

    `without` names further packages to leave out, dependencies or not. Raises `BuildError`.
    """
    for name in (*packages, *without):
        if not _PACKAGE_NAME.fullmatch(name):
            raise BuildError(f"{name!r} is not a package name")
    if shutil.which("apt-get") is None:
        raise BuildError("images are built from Debian packages, and this machine has no apt-get")
    apt = _Apt(cache_dir, packages, without)
    wanted = apt.plan()
    if not _all_there(wanted, cache_dir):
        try:
            apt.download()
        except BuildError:
            # The lists may be old, and name versions that the mirror has replaced since.
            if not apt.update():
                raise
            wanted = apt.plan()
            apt.download()
    if not _all_there(wanted, cache_dir):
        raise BuildError(f"apt-get did not download all of {' '.join(packages)}")
    return [cache_dir / one.name for one in sorted(wanted, key=lambda one: one.name)]


def _all_there(wanted: Sequence[_Wanted], cache_dir: Path) -> bool:
    # apt moves an archive here only after checking it against the signed lists, and the content of a version
    # never changes: the size tells a whole file.
    try:
        return all((cache_dir / one.name).stat().st_size == one.size for one in wanted)
    except FileNotFoundError:
        return False


class _Apt:
    """apt-get on an imaginary machine."""

    def __init__(self, cache_dir: Path, packages: Sequence[str], without: Sequence[str]) -> None:
        self._packages = list(packages)
        self._cache_dir = cache_dir
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (cache_dir / "partial").mkdir(exist_ok=True)
        # apt lists only what its archive directory lacks; the plan needs the whole list.
        self._empty = cache_dir / "none"
        (self._empty / "partial").mkdir(parents=True, exist_ok=True)
        plain = {re.split("[:=]", name)[0] for name in packages}
        absent = sorted({*NOT_IN_IMAGES, *without} - plain)
        key = hashlib.sha256(" ".join(absent).encode()).hexdigest()[:12]
        self._status = cache_dir / f"status-{key}"
        if not self._status.exists():
            write_whole(self._status, _status(absent).encode())

    def plan(self) -> list[_Wanted]:
        if not any(_APT_LISTS.glob("*_Packages*")):
            self.update()  # a fresh machine or container image has no package lists yet
        result = self._run(["--print-uris", "-qq"], self._empty)
        if result.returncode != 0:
            raise BuildError(f"apt-get cannot plan {' '.join(self._packages)}: {_reason(result.stderr)}")
        return [
            _Wanted(name=match["name"], size=int(match["size"]))
            for match in _URI_LINE.finditer(result.stdout)
        ]

    def update(self) -> bool:
        """Fetch the host's package lists anew; False when that is not ours to do or did not work."""
        if os.geteuid() != 0:
            return False
        command = ["apt-get", "update", "-qq"]
        return (
            subprocess.run(command, check=False, timeout=_APT_TIMEOUT_S, capture_output=True).returncode == 0
        )

    def download(self) -> None:
        result = self._run(["--download-only", "-qq"], self._cache_dir)
        if result.returncode != 0:
            raise BuildError(
                f"apt-get cannot download {' '.join(self._packages)}: {_reason(result.stderr)}",
                remedy="check the network, or run `apt-get update`",
            )

    def _run(self, options: Sequence[str], archives: Path) -> subprocess.CompletedProcess[str]:
        settings = {
            "Dir::State::status": self._status,
            "Dir::Cache::archives": archives,
            # Our own, next to our archives: the host's belong to its own dpkg status.
            "Dir::Cache::pkgcache": self._cache_dir / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": self._cache_dir / "srcpkgcache.bin",
            "APT::Install-Recommends": "false",
            "APT::Install-Suggests": "false",
            "APT::Sandbox::User": "root",
            # Our cache is locked by the caller; the host's dpkg is not involved.
            "Debug::NoLocking": "true",
            "Dpkg::Use-Pty": "false",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "15",
            "Acquire::https::Timeout": "15",
        }
        command = ["apt-get", *options, "-y", "--no-remove"]
        for key, value in settings.items():
            command += ["-o", f"{key}={value}"]
        return subprocess.run(
            [*command, "install", *self._packages],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_APT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )


def _status(absent: Sequence[str]) -> str:
    """A dpkg status file that says these are installed, in a version that satisfies everyone."""
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    entries = []
    for name in absent:
        provides = f"Provides: {_PROVIDES[name]}\n" if name in _PROVIDES else ""
        entries.append(
            f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
            f"Maintainer: podling\nArchitecture: {architecture}\nMulti-Arch: foreign\nVersion: 999:999\n"
            f"{provides}"
            f"Description: left out of images\n"
        )
    return "\n".join(entries)


def _reason(stderr: str) -> str:
    errors = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
    return "; ".join(errors[:3]) or stderr.strip()[-500:] or "no reason given"
