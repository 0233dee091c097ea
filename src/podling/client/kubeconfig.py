"""Reading and changing kubeconfig files.

Components read theirs with `client_config`; `podling up` adds a context to the user's with
`merge_context` and `podling down` takes it out with `remove_context`. Users keep the keys to real
clusters in that file, so a change touches only the entries of the given name, keeps every field it does
not know, is refused when the file cannot be understood, and replaces the file in one rename, readable by
its owner only. Writers exclude each other as kubectl and kind do, by creating `FILE.lock`.

    KubeconfigError   everything raised here; `remedy` says what to do about it

Source: Kubernetes, "Organizing Cluster Access Using kubeconfig Files"; client-go tools/clientcmd.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from podling.client.errors import ClientError
from podling.client.http import ClientConfig

LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.02
"""Another tool's lock is a file that vanishes: there is nothing to wait on but the clock."""

# libyaml's, when PyYAML was built with it: ten times faster.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class KubeconfigError(ClientError):
    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy


def default_path(env: Mapping[str, str]) -> Path:
    """The file to change, chosen as kind does: of the list in $KUBECONFIG the first that exists, or else
    the last; without it ~/.kube/config."""
    paths = [Path(p) for p in env.get("KUBECONFIG", "").split(os.pathsep) if p]
    for path in paths:
        if path.exists():
            return path
    return paths[-1] if paths else Path(env.get("HOME") or Path.home()) / ".kube" / "config"


def load(path: Path) -> dict[str, Any]:
    """The file as plain values; an empty configuration when it is absent or empty."""
    try:
        document = yaml.load(path.read_bytes(), Loader=_Loader)  # a safe loader
    except FileNotFoundError:
        document = None
    except OSError as err:
        raise KubeconfigError(f"cannot read kubeconfig {path}: {err.strerror}") from err
    except yaml.YAMLError as err:
        raise KubeconfigError(f"kubeconfig {path} is not YAML: {err}", remedy="mend or move it") from err
    if document is None:
        return {"apiVersion": "v1", "kind": "Config", "preferences": {}}
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise KubeconfigError(f"{path} is not a kubeconfig", remedy="mend or move it")
    for section in ("clusters", "contexts", "users"):
        entries = document.get(section) or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise KubeconfigError(f"kubeconfig {path}: {section} is not a list of maps", remedy="mend it")
    return document


def client_config(path: Path, context: str | None = None) -> ClientConfig:
    """What a client needs to know of `context`, by default the current one.

    Relative file names are relative to the kubeconfig. Raises KubeconfigError when something named is not
    there, or when the user needs an external program (`exec`) or a password.
    """
    config = load(path)
    name = context or config.get("current-context") or ""
    if not name:
        raise KubeconfigError(f"kubeconfig {path} has no current context", remedy="name one")
    chosen = _find(path, config, "contexts", "context", name)
    cluster = _find(path, config, "clusters", "cluster", str(chosen.get("cluster", "")))
    user = _find(path, config, "users", "user", str(chosen["user"])) if chosen.get("user") else {}
    for unsupported in ("exec", "auth-provider", "username"):
        if user.get(unsupported):
            raise KubeconfigError(
                f"kubeconfig {path}: user {chosen['user']!r} authenticates by {unsupported}",
                remedy="use a client certificate or a token",
            )
    if not cluster.get("server"):
        raise KubeconfigError(f"kubeconfig {path}: cluster {chosen.get('cluster')!r} has no server")
    return ClientConfig(
        server=cluster["server"],
        ca_file=_file(path, cluster, "certificate-authority"),
        ca_data=_data(path, cluster, "certificate-authority-data"),
        cert_file=_file(path, user, "client-certificate"),
        cert_data=_data(path, user, "client-certificate-data"),
        key_file=_file(path, user, "client-key"),
        key_data=_data(path, user, "client-key-data"),
        token=user.get("token"),
        token_file=_file(path, user, "tokenFile"),
        insecure_skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name"),
        namespace=chosen.get("namespace") or "default",
    )


def merge_context(path: Path, name: str, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    """Add or replace cluster, user and context `name`, and make that context the current one.

    `cluster` and `user` are the maps of the file format (`server`, `certificate-authority-data`, ...;
    `client-certificate-data`, ...). Safe to repeat.
    """
    with _locked(path):
        config = load(path)
        _put(config, "clusters", name, "cluster", dict(cluster))
        _put(config, "users", name, "user", dict(user))
        _put(config, "contexts", name, "context", {"cluster": name, "user": name})
        config["current-context"] = name
        _write(path, config)


def remove_context(path: Path, name: str) -> bool:
    """Take out what `merge_context` put in; no current context remains if it was this one.

    Returns whether there was anything to remove; a file that has nothing of it is not written at all.
    """
    if not path.exists():
        return False
    with _locked(path):
        config = load(path)
        found = False
        for section in ("clusters", "users", "contexts"):
            entries = config.get(section) or []
            kept = [entry for entry in entries if entry.get("name") != name]
            if len(kept) != len(entries):
                config[section] = kept
                found = True
        if config.get("current-context") == name:
            config["current-context"] = ""
            found = True
        if found:
            _write(path, config)
        return found


def _find(path: Path, config: Mapping[str, Any], section: str, key: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if entry.get("name") == name:
            value = entry.get(key) or {}
            if isinstance(value, dict):
                return value
    raise KubeconfigError(f"kubeconfig {path} has no {key} {name!r}")


def _file(path: Path, section: Mapping[str, Any], key: str) -> Path | None:
    value = section.get(key)
    return path.parent / str(value) if value else None


def _data(path: Path, section: Mapping[str, Any], key: str) -> bytes | None:
    value = section.get(key)
    if not value:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as err:
        raise KubeconfigError(f"kubeconfig {path}: {key} is not base64: {err}") from err


def _put(config: dict[str, Any], section: str, name: str, key: str, value: dict[str, Any]) -> None:
    entries = config.get(section) or []
    config[section] = entries
    for entry in entries:
        if entry.get("name") == name:
            entry[key] = value
            return
    entries.append({"name": name, key: value})


def _write(path: Path, config: dict[str, Any]) -> None:
    """Replace the file `path` leads to (it may be a symbolic link), keeping its owner."""
    target = path.resolve()
    text = yaml.dump(config, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            # Root may write a user's file (sudo), which must stay theirs.
            owner = target.stat() if target.exists() else target.parent.stat()
            if os.geteuid() == 0:
                os.fchown(fd, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(fd)
        temporary.rename(target)
    except OSError as err:
        temporary.unlink(missing_ok=True)
        raise KubeconfigError(f"cannot write kubeconfig {path}: {err.strerror}") from err


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `FILE.lock`, whose existence is the lock among client-go programs.

    Ours is also held with flock(2), so that one left behind by a killed podling is told from a live one;
    an abandoned lock of another program is for its owner to remove.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = _acquire(lock)
    except OSError as err:
        raise KubeconfigError(f"cannot lock kubeconfig {path}: {err}") from err
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(fd)


_OURS = b"podling\n"


def _acquire(lock: Path) -> int:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if _remove_stale(lock):
                continue
            if time.monotonic() >= deadline:
                raise KubeconfigError(
                    f"{lock} exists: another program is changing the kubeconfig",
                    remedy="if none is, remove that file",
                ) from None
            time.sleep(LOCK_POLL_S)
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, _OURS)
        return fd


def _remove_stale(lock: Path) -> bool:
    """Remove a lock whose holder was one of us and is dead."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The name may by now belong to a newer lock, which must not be removed.
        current = os.stat(lock)
        ours = os.pread(fd, len(_OURS), 0) == _OURS
        if ours and current.st_ino == os.fstat(fd).st_ino:
            with suppress(FileNotFoundError):
                lock.unlink()
            return True
        return False
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)
