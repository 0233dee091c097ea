"""A real cluster for a test: `podling up`, `kubectl` and `podling down` as a person would type them.

    with PodlingCluster("mytest", workers=1) as cluster:
        cluster.kubectl("apply", "-f", "pod.yaml")
        cluster.wait("pod/web", "condition=Ready")

Everything goes through the command lines; nothing here reaches into a cluster's insides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from podling.machine.kubectl import kubectl_path

T = TypeVar("T")

COMMAND_TIMEOUT_S = 60.0


class CommandError(AssertionError):
    """A command that failed although it should not; the text holds the line to repeat and its output."""


class PodlingCluster:
    """One cluster; a context manager that brings it up and removes it."""

    def __init__(
        self,
        name: str = "test",
        *,
        workers: int = 2,
        options: tuple[str, ...] = ("--no-egress",),
        kubectl_version: str | None = None,
    ) -> None:
        """`kubectl_version`: a minor version such as 1.37; None: the machine's kubectl, whatever it is."""
        self.name = name
        self.kubectl_version = kubectl_version
        self.workers = workers
        self.options = options
        self._home = tempfile.TemporaryDirectory(prefix=f"podling-{name}-")
        self.kubeconfig = Path(self._home.name) / "config"
        self.env = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "PODLING_NAME": name,
            "HOME": self._home.name,
        }

    def __enter__(self) -> PodlingCluster:
        try:
            self.podling("up", "--workers", str(self.workers), *self.options)
        except BaseException:
            self._home.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.podling("down")
        self._home.cleanup()

    @property
    def index(self) -> int:
        """Which cluster of this machine it is: the byte its address ranges differ by."""
        record = json.loads(Path(f"/var/lib/podling/clusters/{self.name}/cluster.json").read_text())
        return int(record["config"]["index"])

    def podling(
        self, *args: str, check: bool = True, timeout_s: float = 120.0, input: bytes | None = None
    ) -> str:
        """Standard output of `podling ARGS`."""
        argv = [sys.executable, "-m", "podling.cli", *args]
        return self.run(argv, check=check, timeout_s=timeout_s, input=input).stdout

    def node(self, node: str, *argv: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Standard output of a command on a node."""
        return self.podling("node", "exec", node, "--", *argv, check=check, timeout_s=timeout_s)

    def kubectl(
        self,
        *args: str,
        check: bool = True,
        version: str | None = None,
        input: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Standard output of `kubectl ARGS`; `version` picks another kubectl than the machine's."""
        return self.kubectl_run(
            *args, check=check, version=version, input=input, timeout_s=timeout_s, env=env
        ).stdout

    def kubectl_run(
        self,
        *args: str,
        check: bool = False,
        version: str | None = None,
        input: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        argv = [str(kubectl_path(version or self.kubectl_version)), *args]
        return self.run(
            argv, check=check, timeout_s=timeout_s, input=input.encode() if input else None, env=env
        )

    def run(
        self,
        argv: list[str],
        *,
        check: bool,
        timeout_s: float,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv,
            env={**self.env, **(env or {})},
            input=input if input is not None else b"",
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        text = subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and done.returncode != 0:
            raise CommandError(f"{' '.join(argv)}\nexit code {done.returncode}\n{text.stdout}{text.stderr}")
        return text

    def get(self, *what: str) -> dict[str, Any]:
        """`kubectl get WHAT -o json`, parsed."""
        document: dict[str, Any] = json.loads(self.kubectl("get", *what, "-o", "json"))
        return document

    def apply(self, manifest: str | dict[str, Any] | list[dict[str, Any]], *args: str) -> str:
        """`kubectl apply -f -` of YAML text, an object or a list of objects."""
        if isinstance(manifest, list):
            manifest = {"apiVersion": "v1", "kind": "List", "items": manifest}
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.kubectl("apply", "-f", "-", *args, input=text)

    def wait(self, what: str, condition: str, *, timeout_s: int = 30) -> None:
        """`kubectl wait WHAT --for=CONDITION`."""
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={timeout_s}s", timeout_s=timeout_s + 10)

    def delete(self, *what: str) -> None:
        self.kubectl("delete", *what, "--ignore-not-found", "--grace-period=1")


def eventually(check: Callable[[], T], *, timeout_s: float = 20.0, interval_s: float = 0.1) -> T:
    """Repeat `check` until it neither raises `AssertionError` nor times out; its last error is raised."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(interval_s)


def pod(
    name: str,
    *containers: dict[str, Any],
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Pod manifest."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 1, **spec},
    }


def busybox(name: str = "busybox", command: str = "sleep 3600", **fields: Any) -> dict[str, Any]:
    """A container of the busybox image that runs `command` in its shell."""
    return {
        "name": name,
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", command],
        **fields,
    }
