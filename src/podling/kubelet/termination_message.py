"""Termination messages: what a container left behind to explain its end.

Kubernetes documentation, "Determine the Reason for Pod Failure". The file is mounted into the container
at `terminationMessagePath`; with `FallbackToLogsOnError` the end of the log stands in for an empty one.
"""

from __future__ import annotations

import os
from pathlib import Path

from podling.kubelet import names
from podling.kubelet.config import KubeletConfig
from podling.kubelet.log_format import parse_line
from podling.kubelet.runtime_state import ContainerRecord

MAX_MESSAGE_BYTES = 4096
MAX_LOG_BYTES = 2048
MAX_LOG_LINES = 80


def create_message_file(config: KubeletConfig, uid: names.PodUID, container: str, attempt: int) -> Path:
    """An empty file any user of the container may write; each attempt has its own."""
    directory = names.pod_dir(config, uid) / "containers" / container
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / str(attempt)
    path.write_bytes(b"")
    path.chmod(0o666)
    return path


def read_message(record: ContainerRecord) -> str:
    """The message of an ended container; empty when it left none. Reads at most 4 KiB."""
    annotations = record.status.annotations
    wanted = annotations.get(names.TERMINATION_PATH_ANNOTATION, "")
    source = next((m.host_path for m in record.status.mounts if m.container_path == wanted), None)
    text = _read_head(Path(source)) if source else ""
    failed = record.status.exit_code != 0
    if (
        not text
        and failed
        and annotations.get(names.TERMINATION_POLICY_ANNOTATION) == "FallbackToLogsOnError"
    ):
        text = _log_tail(Path(record.status.log_path))
    return text


def _read_head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MESSAGE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _log_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            # Each line carries a time stamp and a stream name: read more than is kept.
            file.seek(max(0, file.tell() - 4 * MAX_LOG_BYTES))
            lines = file.read().splitlines()[-MAX_LOG_LINES:]
    except OSError:
        return ""
    parsed = [line for raw in lines if (line := parse_line(raw + b"\n")) is not None]
    return b"".join(line.content for line in parsed)[-MAX_LOG_BYTES:].decode("utf-8", "replace")
