"""The bundle: the compiled code of all our plugins, and of what they import, in one file.

Executables start out of it (`podling.cni.plugins.start` says how, and why). It is made from what the
interpreter has compiled anyway, when plugins are installed and a module is newer than it, and belongs to one
version of Python. It lies in the package's `__pycache__`, or in /var/lib/podling where that cannot be
written; written whole by renaming, so that many may do it at once.

    head    marshal: (the code of `start`, {module: where its file and its code are}), padded to HEAD_BYTES
    codes   marshal, one after another
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib.util
import marshal
import os
import pkgutil
import subprocess
import sys
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path

import podling
from podling.cni import plugins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

    from podling.cni.plugins.start import Entry

HEAD_BYTES = 1 << 15
START = "podling.cni.plugins.start"
OTHERS = ("ipaddress", "struct", "_struct", "_socket", "_json", "_ctypes", "fcntl")
"""Modules of the standard library that go into the bundle; what else plugins import they seldom need."""
PACKAGE_DIR = Path(podling.__file__).resolve().parent.parent
PLACES = (Path(__file__).resolve().parent / "__pycache__", Path("/var/lib/podling"))


def ensure_bundle(python: str) -> Path | None:
    """The bundle for this interpreter, made or renewed if need be (0.2 s); None when there is none.

    `python` is the interpreter itself: what a virtual environment adds is not in the bundle.
    """
    places = [place / f"cni-plugins.{sys.implementation.cache_tag}.bundle" for place in PLACES]
    for path in places:
        if _is_current(path):
            return path
    for path in places:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            path.parent.mkdir(exist_ok=True)
            # In a process of its own, where nothing is imported but what a plugin imports.
            code = f"import sys; sys.path.append(sys.argv[1]); import {__name__} as b; b.write(sys.argv[2])"
            command: list[str | Path] = [python, "-I", "-S", "-c", code, PACKAGE_DIR, path]
            subprocess.run(command, check=True, capture_output=True)
            return path
    return None


def _is_current(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            _, index = marshal.loads(file.read(HEAD_BYTES))
        for file_name, mtime_ns, size, *_ in index.values():
            info = os.stat(file_name)
            if (info.st_mtime_ns, info.st_size) != (mtime_ns, size):
                return False
    except (OSError, ValueError, EOFError, TypeError):
        return False
    return True


def write(path: str) -> None:
    """Make the bundle of this interpreter. Raises OSError."""
    for module in pkgutil.walk_packages(plugins.__path__, f"{plugins.__name__}."):
        importlib.import_module(module.name)
    for name in OTHERS:
        importlib.import_module(name)
    index, codes = _collect()
    head = marshal.dumps((_start_code(), index))
    assert len(head) <= HEAD_BYTES, "raise HEAD_BYTES"
    draft = f"{path}.{os.getpid()}"
    with open(draft, "wb") as file:
        file.write(head.ljust(HEAD_BYTES, b"\0"))
        file.write(b"".join(codes))
    os.rename(draft, path)


def _collect() -> tuple[dict[str, Entry], list[bytes]]:
    index: dict[str, Entry] = {}
    codes: list[bytes] = []
    place = HEAD_BYTES
    for name, module in sorted(sys.modules.items()):
        if not (name in OTHERS or (name.partition(".")[0] == "podling" and name != __name__)):
            continue
        spec = module.__spec__
        if spec is None or spec.origin is None:
            continue
        if isinstance(spec.loader, SourceFileLoader):
            code = marshal.dumps(_code_of(name))
        elif isinstance(spec.loader, ExtensionFileLoader):
            code = b""
        else:  # built into the interpreter, or frozen
            continue
        info = os.stat(spec.origin)
        folder = (spec.submodule_search_locations or [""])[0]
        index[name] = (spec.origin, info.st_mtime_ns, info.st_size, place, len(code), folder)
        codes.append(code)
        place += len(code)
    return index, codes


def _start_code() -> CodeType:
    """Of `start`, without its import of `__future__`: it runs before anything can be imported from here."""
    spec = importlib.util.find_spec(START)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(tree, spec.origin, "exec", flags=flags, dont_inherit=True)
    return code


def _code_of(name: str) -> CodeType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert isinstance(spec.loader, SourceFileLoader)
    code = spec.loader.get_code(name)
    assert code is not None
    return code
