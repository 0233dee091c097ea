"""Python begun by half: what a script finds in it is what it finds in Python, as soon as it asks."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from podling.cni import bundle, launcher
from podling.cni.install import install, interpreter
from podling.cni.launcher import ensure_launcher


@pytest.fixture(scope="module")
def python() -> Path:
    found = ensure_launcher(interpreter())
    if found is None:
        pytest.skip("no C compiler, or no Python.h (Debian: python3-dev)")
    return found


class Scripts:
    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.path = python, folder / "script"

    def run(self, code: str, *arguments: str | bytes) -> subprocess.CompletedProcess[str]:
        self.path.write_text("import posix, sys\nsys.path.append('/ours')\n" + code)
        command = [self.python, "-IS", self.path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def says(self, code: str, *arguments: str | bytes) -> str:
        done = self.run(code, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.rstrip("\n")


@pytest.fixture
def scripts(python: Path, tmp_path: Path) -> Scripts:
    return Scripts(python, tmp_path)


def test_it_is_begun_by_half(scripts: Scripts):
    code = "posix.write(1, repr((hasattr(sys, 'stdin'), sys.path, sys.argv)).encode())"
    expected = repr((False, ["/ours"], [str(scripts.path), "b\udcff"]))
    assert scripts.says(code, b"b\xff") == expected


@pytest.mark.parametrize(
    "need",
    [
        "import json",
        "open('/dev/null').close()",
        "import _plugin_python; _plugin_python.finish()",
        "'\u20ac'.encode('cp1252')",  # codecs are modules
        "import subprocess; subprocess.run(['true'], check=True)",
        "from os.path import splitext; import ctypes",
    ],
)
def test_what_needs_the_other_half_brings_it(scripts: Scripts, need: str):
    code = f"{need}\nimport _plugin_python\n_plugin_python.finish()\n"
    code += "print(sys.path[-1], len(sys.path) > 2, sys.argv[1:], sys.prefix, sys.stdin.fileno())"
    prefix = subprocess.run(
        [interpreter(), "-IS", "-c", "import sys; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert scripts.says(code, "x") == f"/ours True ['x'] {prefix} 0"


def test_another_thread_may_be_the_one_that_needs_it(scripts: Scripts):
    code = """
import _thread
done = _thread.allocate_lock()
done.acquire()
def body():
    import json
    posix.write(1, json.dumps([1]).encode())
    done.release()
_thread.start_new_thread(body, ())
done.acquire()
import asyncio
print(asyncio.run(asyncio.sleep(0, "slept")))
"""
    assert scripts.says(code) == "[1]slept"


def test_a_missing_module_is_missing(scripts: Scripts):
    code = "try:\n    import no_such_module\nexcept ModuleNotFoundError as err:\n    print(err)"
    assert scripts.says(code) == "No module named 'no_such_module'"


def test_how_scripts_end(scripts: Scripts):
    assert scripts.run("sys.exit(3)").returncode == 3
    assert scripts.run("import json; sys.exit(4)").returncode == 4
    assert scripts.run("posix._exit(5)").returncode == 5
    for code in ("1 / 0", "import json; 1 / 0"):
        done = scripts.run(code)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == "Traceback (most recent call last):"
        assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "SyntaxError" in scripts.run("def").stderr


def test_signals_are_handled_as_python_does(scripts: Scripts):
    code = "posix.write(1, posix.read(posix.open('/proc/self/status', 0), 9999))"
    (mask,) = (line.split()[1] for line in scripts.says(code).splitlines() if line.startswith("SigIgn"))
    assert int(mask, 16) & 1 << signal.SIGPIPE - 1
    code = "import signal; print([signal.getsignal(number) for number in (2, 13, 15, 25)])"
    plain = subprocess.run([interpreter(), "-c", code], capture_output=True, text=True, check=True).stdout
    shown = scripts.says(code)
    assert shown.partition(" at ")[0] == plain.rstrip().partition(" at ")[0]


def test_setns_says_why_not(scripts: Scripts):
    code = "from _plugin_python import setns\ntry:\n    setns(99, 0)\nexcept OSError as err:\n"
    assert scripts.says(code + "    posix.write(1, str(err).encode())") == "[Errno 9] Bad file descriptor"


def test_called_in_any_other_way_it_is_the_interpreter(python: Path, tmp_path: Path):
    done = subprocess.run(
        [python, "-c", "import sys; print(sys.executable)"], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == interpreter()
    done = subprocess.run([python, "-IS", tmp_path / "none"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"No such file" in done.stderr


def _works(bin_dir: Path) -> bool:
    done = subprocess.run(
        [bin_dir / "bridge"], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True
    )
    return b"1.1.0" in done.stdout


@pytest.mark.parametrize("source", ["int main(void) { return 0; }", "#error no", None])
def test_without_it_plugins_are_executed_by_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
):
    """It does not do what it should, cannot be compiled, or there is no compiler."""
    monkeypatch.setattr(bundle, "PLACES", (tmp_path / "place",))
    if source is None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CC", raising=False)
    else:
        (tmp_path / "plugin_python.c").write_text(source)
        monkeypatch.setattr(launcher, "SOURCE", tmp_path / "plugin_python.c")
    seen = []
    for _ in range(2):
        install(tmp_path / "bin")
        assert (tmp_path / "bin/bridge").read_text().startswith(f"#!{interpreter()} -IS\n")
        assert _works(tmp_path / "bin")
        seen.append([path.stat().st_ino for path in (tmp_path / "place").glob("*plugin-python*")])
    assert seen[0] == seen[1]  # it is not tried again
    assert len(seen[0]) == (source is not None)


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Path):
    monkeypatch.setattr(bundle, "PLACES", (tmp_path / "file/below", tmp_path / "place"))
    (tmp_path / "file").touch()
    install(tmp_path / "bin")
    (made,) = (tmp_path / "place").glob("plugin-python.*")
    inode = made.stat().st_ino
    install(tmp_path / "bin")
    assert made.stat().st_ino == inode
    assert (tmp_path / "bin/bridge").read_text().startswith(f"#!{made} -IS\n")
    assert _works(tmp_path / "bin")
