"""A containerd of our own, to compare with and to put below our kubelet. For tests and the benchmark.

    with Containerd(folder, images=(archive,)) as containerd:
        client = CRIClient(containerd.endpoint)

It keeps everything below one folder. What containerd insists on elsewhere (/run/containerd, /run/netns,
/var/lib/cni) is covered by file systems in memory: call from a mount namespace that ends with you.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from podling.linux import syscalls as sc

START_S: Final = 15.0
STOP_S: Final = 10.0
PLUGINS: Final = Path("/usr/lib/cni")
"""The reference plugins of Debian's containernetworking-plugins."""
COVERED: Final = ("/run/containerd", "/run/netns", "/var/lib/cni")
PAUSE_IMAGE: Final = "localhost/pause:local"

_CONFIG: Final = """\
version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{base}/containerd.sock"
[ttrpc]
address = "{base}/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE the kernel refuses what is below our own.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{base}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def missing() -> str:
    """The program without which it does not run here; empty when all are there."""
    for program in ("containerd", "ctr", "runc"):
        if shutil.which(program) is None:
            return program
    return "" if (PLUGINS / "bridge").exists() else str(PLUGINS / "bridge")


class Containerd:
    def __init__(
        self,
        base: Path,
        *,
        images: Sequence[Path],
        subnet: str = "10.86.0.0/24",
        plugins: Path = PLUGINS,
        network: str | None = None,
    ) -> None:
        """`base` lies on a file system that can carry an overlay's upper directories.

        `network` is a CNI configuration list, by default a bridge for `subnet`; `plugins` holds its plugins.
        """
        self._base = base
        self._images = images
        self._network = network or conflist("containerd", "cni-ctd0", subnet, base)
        self._plugins = plugins
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self._base}/containerd.sock"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Containerd:
        for folder in COVERED:
            Path(folder).mkdir(parents=True, exist_ok=True)
            sc.mount("tmpfs", folder, "tmpfs")
        self._write_config()
        with (self._base / "log").open("ab") as log:
            command = ["containerd", "--config", str(self._base / "config.toml")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_answering()
            for archive in self._images:
                self._ctr("images", "import", "--digests", str(archive))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for folder in reversed(COVERED):
            sc.umount(folder, sc.MNT_DETACH)

    def _write_config(self) -> None:
        (self._base / "net.d").mkdir(parents=True)
        text = _CONFIG.format(base=self._base, pause=PAUSE_IMAGE, plugins=self._plugins)
        (self._base / "config.toml").write_text(text)
        (self._base / "net.d" / "10-test.conflist").write_text(self._network)

    def _wait_answering(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(f"{self._base}/containerd.sock")
                return
            time.sleep(0.02)
        raise RuntimeError(f"containerd does not answer: {(self._base / 'log').read_text()[-2000:]}")

    def _ctr(self, *arguments: str) -> None:
        command = ["ctr", "--address", f"{self._base}/containerd.sock", "--namespace", "k8s.io", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def conflist(name: str, bridge: str, subnet: str, base: Path) -> str:
    """CNI configuration: a bridge, and addresses remembered below `base`."""
    ipam = {"type": "host-local", "dataDir": str(base / "ipam"), "ranges": [[{"subnet": subnet}]]}
    plugin = {"type": "bridge", "bridge": bridge, "isDefaultGateway": True, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]})


def write_oci_archive(path: Path, name: str, rootfs: Path, config: dict[str, Any]) -> None:
    """An image of one layer that holds `rootfs`; `config` as in OCI's image spec (Cmd, Env, ...)."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, arcname=".")
    diff_id = _digest(layer.getvalue())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    image = {
        "architecture": machine,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, json.dumps(image).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [_blob(blobs, layer.getvalue(), "application/vnd.oci.image.layer.v1.tar")],
    }
    described = _blob(blobs, json.dumps(manifest).encode(), manifest["mediaType"])
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [described | {"annotations": names}]}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest.removeprefix('sha256:')}", data)


def _blob(blobs: dict[str, bytes], data: bytes, media_type: Any) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write_test_images(folder: Path, busybox: str, pause: Path) -> tuple[Path, Path]:
    """Archives of a busybox image (`docker.io/library/busybox:latest`) and of our pause."""
    root = folder / "busybox"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in ("sh", "sleep", "cat", "echo", "id", "true"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    busybox_archive, pause_archive = folder / "busybox.tar", folder / "pause.tar"
    write_oci_archive(
        busybox_archive, "docker.io/library/busybox:latest", root, {"Cmd": ["/bin/sh"], "Env": [path]}
    )
    pause_root = folder / "pause"
    pause_root.mkdir()
    shutil.copy(pause, pause_root / "pause")
    os.chmod(pause_root / "pause", 0o755)
    write_oci_archive(pause_archive, PAUSE_IMAGE, pause_root, {"Entrypoint": ["/pause"], "Env": [path]})
    return busybox_archive, pause_archive
