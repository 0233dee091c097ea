"""Plugins as programs out of the bundle: the same as without, whatever has happened to the files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from podling.cni.bundle import PACKAGE_DIR
from podling.cni.install import interpreter
from podling.cni.plugins.find import MODULES

BEGIN = "from podling.cni.plugins.skel import main"  # where an executable has its bundle and goes on

PRINT = """
def print(*values):
    import posix
    posix.write(1, (" ".join(map(str, values)) + "\\n").encode())
"""  # there is no sys.stdout yet


class Installed:
    """A copy of what plugins are made of, and executables that belong to it."""

    def __init__(self, base: Path) -> None:
        self.package = base / "lib"
        self.bin_dir = base / "bin"
        for part in ("cni", "linux"):
            source, target = PACKAGE_DIR / "podling" / part, self.package / "podling" / part
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PACKAGE_DIR / "podling" / "__init__.py", self.package / "podling")
        self.install()

    def install(self) -> None:
        code = "import sys; sys.path.append(sys.argv[1]); from podling.cni import install as i; "
        code += "i.install(sys.argv[2])"
        command = [interpreter(), "-IS", "-c", code, str(self.package), str(self.bin_dir)]
        subprocess.run(command, check=True)

    @property
    def bundle(self) -> Path:
        (found,) = (self.package / "podling/cni/__pycache__").glob("*.bundle")
        return found

    def versions(self, plugin: str = "bridge", cwd: str = "/") -> list[str]:
        done = subprocess.run(
            [self.bin_dir / plugin],
            env={"CNI_COMMAND": "VERSION"},
            cwd=cwd,
            input=b"",
            capture_output=True,
            check=True,
        )
        assert done.stderr == b""
        supported: list[str] = json.loads(done.stdout)["supportedVersions"]
        return supported

    def run(self, code: str) -> str:
        """What a program prints that has begun as plugins do, be it by half or by all of Python."""
        begin, _ = (self.bin_dir / "bridge").read_text().split(BEGIN)
        path = self.bin_dir.parent / "program.py"
        path.write_text(begin + PRINT + code)
        printed = []
        for python in (interpreter(), *(self.package / "podling/cni/__pycache__").glob("plugin-python.*")):
            done = subprocess.run([python, "-IS", path], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
        assert printed[1:] in ([], printed[:1])
        return printed[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def installed(tmp_path: Path, shared: Installed) -> Installed:
    return Installed(tmp_path)


def test_every_plugin_starts_in_an_empty_environment(shared: Installed):
    for plugin in MODULES:
        assert shared.versions(plugin)[-1] == "1.1.0", plugin


def test_a_plugin_starts_in_a_folder_that_is_gone(shared: Installed, tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone} && CNI_COMMAND=VERSION {shared.bin_dir / 'bridge'} </dev/null"
    done = subprocess.run(["sh", "-c", command], cwd=gone, capture_output=True, check=True)
    assert json.loads(done.stdout)["supportedVersions"][-1] == "1.1.0"


def test_only_what_is_used_runs(shared: Installed):
    code = """
import podling.cni.plugins.main.bridge as bridge
kind = type(sys.modules["podling.cni.plugins.ipam.dhcp_daemon"]).__name__
print(kind, type(bridge).__name__, bridge.PLUGIN.name, type(bridge).__name__, bridge.__file__)
print(sorted({"re", "json", "collections", "ctypes"} & set(sys.modules)))
"""
    first, second = shared.run(code).splitlines()
    assert first == f"Late Late bridge module {shared.package}/podling/cni/plugins/main/bridge.py"
    assert second == "[]"


def test_names_the_lean_modules_lack_come_from_the_real_ones(shared: Installed):
    code = """
import os, functools
before = sys.modules["os"], sys.modules["functools"]
print(os.getpid() == os._exit.__self__.getpid(), os.path.join("a", "b"), dict(os.environ) is os.environ)
print(os.fsencode("x"), functools.reduce(lambda a, b: a + b, [1, 2, 3]))
print([type(m).__name__ for m in before], type(sys.modules["os"]).__name__, os.sep)
from functools import partial, lru_cache
import os.path, subprocess, json
print(json.dumps([1]), subprocess.run(["true"]).returncode, hasattr(os, "nothing"))
"""
    assert shared.run(code).splitlines() == [
        "True a/b False",
        "b'x' 6",
        "['Lean', 'Lean'] module /",
        "[1] 0 False",
    ]


PATHS = """
import os
ends = ["", "/", "a", "a/", "/a", "a//b"]
print([os.path.join(a, b, c) for a in ends for b in ends for c in ends])
print([os.path.exists(p) for p in ("/proc", "/none", "x\\0y", "/proc/self/stat", "")])
print([os.path.isdir(p) for p in ("/proc", "/none", "x\\0y", "/proc/self/stat", "")])
print(os.path.dirname("/a/b"), os.path.basename("/a/b"), os.path.sep)
import os.path, posixpath
from os.path import splitext
print(splitext("a.b"), posixpath.normpath("/a/../b"))
"""


def test_paths_are_what_they_are_everywhere(shared: Installed):
    plain = subprocess.run([sys.executable, "-c", PATHS], capture_output=True, text=True, check=True)
    assert shared.run(PATHS) == plain.stdout


ADDRESSES = """
import ipaddress
found = [ipaddress.ip_interface(t) for t in ("10.0.0.2/24", "10.0.0.1/8", "10.0.0.1/24")]
nets = [ipaddress.ip_network(t) for t in ("10.1.0.0/16", "10.0.0.0/8", "fd00::/64")]
one, two = found[0].ip, found[1].ip
print(sorted(found), sorted(nets[:2]), one > two, one >= two, one <= two, one >= one, found[0] > found[1])
print(nets[0].broadcast_address, nets[0].hostmask, nets[2].broadcast_address, nets[1].overlaps(nets[0]))
print(one.is_private, one.is_global, nets[2].is_private, one.is_loopback, nets[0].subnet_of(nets[1]))
try:
    one < nets[2].network_address
except TypeError as err:
    print(err)
try:
    one >= 5
except TypeError as err:
    print(err)
print(nets[0].broadcast_address is nets[0].broadcast_address, one == 5, {one: 1}[one])
"""


def test_addresses_are_what_they_are_everywhere(shared: Installed):
    plain = subprocess.run([sys.executable, "-c", ADDRESSES], capture_output=True, text=True, check=True)
    assert shared.run(ADDRESSES) == plain.stdout
    assert len(plain.stdout.splitlines()) == 6


def test_threads_may_ask_a_module_at_the_same_time(shared: Installed):
    code = """
import _thread, podling.cni.plugins.meta.portmap as portmap
locks, found = [], []
def ask(lock):
    found.append(portmap.PLUGIN)
    lock.release()
for _ in range(16):
    locks.append(_thread.allocate_lock())
    locks[-1].acquire()
    _thread.start_new_thread(ask, (locks[-1],))
for lock in locks:
    lock.acquire()
print(len(found), len({id(plugin) for plugin in found}))
"""
    assert shared.run(code) == "16 1\n"


def test_a_module_newer_than_the_bundle_counts(installed: Installed):
    types = installed.package / "podling/cni/types.py"
    types.write_text(types.read_text().replace('"1.1.0")', '"1.1.0", "9.9.9")'))
    for _ in range(2):
        assert installed.versions()[-1] == "9.9.9"
        before = installed.bundle.stat().st_mtime_ns
        installed.install()  # which renews the bundle
    assert installed.bundle.stat().st_mtime_ns == before
    assert installed.run("import podling.cni.types as t; t.VERSIONS; print(t.__loader__)") == "None\n"


@pytest.mark.parametrize("content", [b"", b"nothing of ours" * 100, None])
def test_without_its_bundle_a_plugin_does_the_same(installed: Installed, content: bytes | None):
    if content is None:
        installed.bundle.unlink()
    else:
        installed.bundle.write_bytes(content)
    assert installed.versions()[-1] == "1.1.0"


def test_a_bundle_that_cannot_be_kept_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from podling.cni import bundle, install

    (tmp_path / "file").touch()
    monkeypatch.setattr(bundle, "PLACES", (tmp_path / "file" / "below",))
    install.install(tmp_path / "bin")
    assert "bundle" not in (tmp_path / "bin" / "bridge").read_text()
    done = subprocess.run(
        [tmp_path / "bin/bridge"], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True
    )
    assert b"1.1.0" in done.stdout
    assert set(os.listdir(tmp_path / "bin")) == set(MODULES)
