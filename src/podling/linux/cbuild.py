"""Small C programs of ours: where a program is, compiled first if need be.

`setup.py` builds each when the package is built, so an installed package carries the binaries. From a source
tree, or with a source newer than the binary, `CProgram.path` compiles on first use: into the package when
that is writable, else into /var/lib/podling. A binary is made beside its final name and renamed, so processes
may race for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

STATE_DIR = Path("/var/lib/podling")


class BuildError(RuntimeError):
    """A program that is not there and cannot be made here. The message says what to install."""


def compiler() -> str | None:
    """`$CC`, else the first C compiler on the path."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CProgram:
    name: str
    version: str
    source: Path
    flags: tuple[str, ...]

    @property
    def binary(self) -> Path:
        """Where the package has it: beside its source."""
        return self.source.with_name(self.name)

    def build(self, target: Path) -> Path:
        """Compile to `target`, whole or not at all. Raises `BuildError`."""
        cc = compiler()
        if cc is None:
            raise BuildError(f"cannot build {self.name}: no C compiler found (install gcc, or set CC)")
        fd, half_made = tempfile.mkstemp(prefix=f".{self.name}-", dir=target.parent)
        os.close(fd)
        try:
            command = [cc, *self.flags, "-o", half_made, str(self.source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BuildError(f"cannot build {self.name}: {' '.join(command)}\n{done.stderr.strip()}")
            os.chmod(half_made, 0o755)
            os.rename(half_made, target)
        finally:
            Path(half_made).unlink(missing_ok=True)
        return target

    def path(self) -> Path:
        """The program; built first if need be (some 50 ms, once). Raises `BuildError`."""
        candidates = [self.binary, STATE_DIR / f"{self.name}-{self.version}"]
        for path in candidates:
            if path.exists() and path.stat().st_mtime >= self.source.stat().st_mtime:
                return path
        if compiler() is None:
            for path in candidates:  # older than its source by date only, as in a copied tree
                if path.exists():
                    return path
        STATE_DIR.mkdir(parents=True, exist_ok=True)
        for path in candidates:
            if os.access(path.parent, os.W_OK):
                return self.build(path)
        raise BuildError(
            f"cannot build {self.name}: neither {self.source.parent} nor {STATE_DIR} is writable"
        )
