"""Writing our plugins as executables under their standard names, for any CNI runtime to call.

Each is a script of a few lines that starts the interpreter isolated and without `site` (a third of its
start time, and no user's `PYTHONPATH` has a say), only by half if that is possible (`podling.cni.launcher`),
finds this package by its absolute path and runs the plugin, out of the bundle if there is one. The marker
line tells our own library that it may call the module in process instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from podling.cni.bundle import HEAD_BYTES, PACKAGE_DIR, START, ensure_bundle
from podling.cni.launcher import ensure_launcher
from podling.cni.plugins.find import MARKER, MODULES

SHEBANG_MAX = 127  # bytes a kernel before 5.1 looks at


def install(directory: Path | str) -> list[Path]:
    """Write all plugins into `directory`, made if missing; may be repeated, even while they are in use."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    python = interpreter()
    bundle = ensure_bundle(python)
    # Without a bundle a plugin imports, and needs all of Python.
    program = str((bundle and ensure_launcher(python)) or python)
    return [_write(target / name, script(name, program, PACKAGE_DIR, bundle)) for name in MODULES]


def interpreter() -> str:
    """Plugins need nothing of a virtual environment, and start sooner without."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def script(name: str, python: str, package_dir: Path, bundle: Path | None) -> str:
    """The text of one executable."""
    module = MODULES[name]
    body = f"{MARKER}{name}\nimport marshal, posix, sys\nsys.path.append({str(package_dir)!r})\n"
    if bundle is not None:
        # Python's version is in the name, so an interpreter that is exchanged finds none.
        where = str(bundle).rsplit(sys.implementation.cache_tag or "", 1)
        body += f"""try:
    fd = posix.open(sys.implementation.cache_tag.join({where!r}), posix.O_RDONLY | posix.O_CLOEXEC)
    code, index = marshal.loads(posix.pread(fd, {HEAD_BYTES}, 0))
except (OSError, EOFError, ValueError, TypeError):
    pass  # slower without
else:
    start = {{"__name__": {START!r}}}
    exec(code, start)
    start["begin"](fd, index)
"""
    body += f"""from podling.cni.plugins.skel import main
from {module} import PLUGIN
main(PLUGIN)
"""
    first = f"#!{python} -IS\n"
    if len(first) <= SHEBANG_MAX and " " not in python:
        return first + body
    # A shell can start an interpreter that does not fit in a first line; to Python the second is a string.
    quoted = python.replace("'", "'\\''")
    return f"#!/bin/sh\n'''exec' '{quoted}' -IS \"$0\" \"$@\"\n' '''\n" + body


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.rename(path)  # whoever is executing the old one keeps it
    return path
