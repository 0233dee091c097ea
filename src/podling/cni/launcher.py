"""The program plugins are executed by: Python, begun only as far as they need (`plugin_python.c`).

It is compiled for one interpreter, with that one's headers and library, when plugins are installed. Where a
compiler or the headers are missing, or a Python is not to be begun like that, plugins are executed by the
interpreter itself: they do the same, 3 ms later each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from podling.cni import bundle
from podling.linux.cbuild import BuildError, CProgram, compiler

SOURCE = Path(__file__).with_name("plugin_python.c")

# Asks for all that the second phase of Python's start brings, one way after the other.
TRIAL = r"""import sys
sys.path.append("/nowhere")
assert hasattr(sys, "stdin") is not ("_plugin_python" in sys.builtin_module_names)
"\u20ac".encode("cp1252")
open("/dev/null").close()
import json, threading
print(json.dumps([sys.argv, sys.prefix, sys.path]), flush=True)
"""


def ensure_launcher(python: str) -> Path | None:
    """The program for the interpreter `python`; compiled if need be (0.5 s, once), or None."""
    name = f"plugin-python.{sys.implementation.cache_tag}-{_fingerprint(python)}"
    for place in bundle.PLACES:
        with contextlib.suppress(OSError):
            # An empty one says that it has been tried.
            return place / name if (place / name).stat().st_size else None
    flags = _flags(python)
    if flags is None or compiler() is None:
        return None
    program = CProgram(name="plugin-python", version="", source=SOURCE, flags=flags)
    for place in bundle.PLACES:
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
            return _make(program, place / name, python)
    return None


def _make(program: CProgram, target: Path, python: str) -> Path | None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".plugin-python-") as folder:
        draft = Path(folder) / program.name
        try:
            works = _works(program.build(draft), python)
        except BuildError:
            works = False
        if not works:
            draft.write_bytes(b"")
        draft.rename(target)
        return target if works else None


def _fingerprint(python: str) -> str:
    """Of all a program depends on: one that is made for something else is not taken for ours."""
    info = os.stat(python)
    parts = (python, sys.version, info.st_mtime_ns, info.st_size, SOURCE.read_bytes())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _flags(python: str) -> tuple[str, ...] | None:
    """How to compile and link; None when this Python is not made for that."""
    library, where = sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("LIBDIR")
    include = sysconfig.get_paths()["include"]
    if not str(library).endswith(".so") or not (Path(include) / "Python.h").exists():
        return None
    return (
        *("-std=gnu11", "-O2", f'-DPYTHON="{python}"', f"-I{include}", f"-L{where}"),
        *(f"-Wl,-rpath,{where}", "-Wl,--no-as-needed", f"-l{str(library)[3:-3]}"),
    )


def _works(launcher: Path, python: str) -> bool:
    """Whether a script finds the same there as in the interpreter."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(TRIAL)
        file.flush()
        try:
            found, expected = (
                subprocess.run(
                    [program, "-IS", file.name, "an argument"], capture_output=True, timeout=60, check=True
                ).stdout
                for program in (launcher, python)
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return found == expected
