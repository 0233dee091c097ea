"""Pull: skopeo fetches from the registry into a scratch directory, and the store takes it from there.

Two steps, as containerd has them. Resolve: fetch the manifest's bytes, whose digest is the image's repo
digest (of the index, when there are several platforms). Copy: fetch that digest, so that a tag moved
meanwhile cannot mix two images. Errors read as containerd's do, because that is what people know from
`kubectl describe pod`.

A machine without a network answers within seconds: the resolve step has a deadline of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from podling.runtime.images import oci
from podling.runtime.images.archive import host_architecture
from podling.runtime.images.errors import PullError, PullNotFoundError
from podling.runtime.images.oci import Manifest
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import Reference, parse_reference

if TYPE_CHECKING:
    from podling.runtime.images.store import ImageStore, RegistryAuth, Session

RESOLVE_TIMEOUT_S = 15.0
"""For a registry that does not answer at all; a network that is not there answers at once."""
COPY_TIMEOUT_S = 1800.0
"""The largest image on a slow line."""

_FATAL = re.compile(r'level=fatal msg="(?P<text>(?:[^"\\]|\\.)*)"')
_NOT_FOUND = (
    "manifest unknown",
    "name unknown",
    "repository name not known",
    "does not exist",
    "404 (not found)",
)
_DENIED = ("unauthorized", "authentication required", "requested access", "403 (forbidden)")
# skopeo's own words before the registry's; the caller says what was attempted.
_PREFIX = re.compile(
    r"^(?:Error parsing image name|initializing source|copying system image from manifest list)"
    r'[^:]*? ?"?docker://[^\s"]+"?: '
)


class _SkopeoError(Exception):
    """skopeo failed; the text is its reason."""


async def pull(
    store: ImageStore, ref: str, auth: RegistryAuth | None = None, *, insecure: bool = False
) -> ImageRecord:
    """See `ImageStore.pull`. `insecure` allows plain HTTP, for a registry on loopback."""
    reference = parse_reference(ref)
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise PullError(f"{_failed(reference)}: skopeo is not installed", remedy="apt install skopeo")
    async with _session(store) as session:
        options = [
            *_credentials(session.scratch, reference, auth),
            f"--tls-verify={str(not insecure).lower()}",
        ]
        source = options
        try:
            raw = await _run(
                [skopeo, "inspect", "--raw", *options, f"docker://{reference}"], RESOLVE_TIMEOUT_S
            )
        except _SkopeoError as err:
            raise _resolve_error(reference, str(err)) from None
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        target = session.scratch / "pulled"
        source = [option.replace("--", "--src-", 1) for option in options]
        platform = ["--override-os=linux", f"--override-arch={host_architecture()}"]
        pinned = f"docker://{replace(reference, tag=None, digest=digest)}"
        try:
            await _run(
                [skopeo, *platform, "copy", "--quiet", *source, pinned, f"dir:{target}"], COPY_TIMEOUT_S
            )
        except _SkopeoError as err:
            raise PullError(f"{_failed(reference)}: failed to copy: {err}") from None
        return await asyncio.to_thread(_install, session, target, reference, digest)


def _install(session: Session, directory: Path, reference: Reference, digest: str) -> ImageRecord:
    """Take what skopeo wrote (containers-transports(5), "dir"): manifest.json and one file per blob."""
    raw = (directory / "manifest.json").read_bytes()
    manifest = oci.decode(raw, Manifest, f"manifest of {reference}")
    for blob in (manifest.config, *manifest.layers):
        if not session.has_blob(blob):
            with open(directory / blob.digest.removeprefix("sha256:"), "rb") as file:
                session.add_stream(file, blob.media_type, digest=blob.digest, size=blob.size)
    stored = session.add_blob(raw, manifest.media_type)
    return session.install(stored, [reference], [f"{reference.repository}@{digest}"])


@asynccontextmanager
async def _session(store: ImageStore) -> AsyncIterator[Session]:
    """The store's session from a coroutine: entering may wait for a lock, leaving deletes files."""
    context = store.session()
    session = await asyncio.to_thread(context.__enter__)
    try:
        yield session
    finally:
        await asyncio.shield(asyncio.to_thread(context.__exit__, None, None, None))


def _credentials(scratch: Path, reference: Reference, auth: RegistryAuth | None) -> list[str]:
    """Credentials go by file: a command line is readable by every user of the machine."""
    if auth is None:
        return []
    if auth.token:
        return [f"--registry-token={auth.token}"]
    secret = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    path = scratch / "auth.json"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"auths": {reference.domain: {"auth": secret}}}, file)
    return [f"--authfile={path}"]


async def _run(command: Sequence[str], timeout_s: float) -> bytes:
    """Its standard output. Raises `_SkopeoError`; kills it on cancellation and at the deadline."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise _SkopeoError(f"no answer within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    if process.returncode != 0:
        raise _SkopeoError(_reason(err.decode(errors="replace")))
    return out


def _reason(stderr: str) -> str:
    match = _FATAL.search(stderr)
    if match is None:
        return stderr.strip().rpartition("\n")[2] or "skopeo failed without a word"
    return _PREFIX.sub("", match["text"].replace('\\"', '"'))


def _failed(reference: Reference) -> str:
    return f'failed to pull and unpack image "{reference}"'


def _resolve_error(reference: Reference, why: str) -> PullError:
    attempted = f'{_failed(reference)}: failed to resolve reference "{reference}"'
    lower = why.lower()
    if any(word in lower for word in _DENIED):
        # A registry does not tell strangers whether a private image exists.
        return PullError(
            f"{attempted}: pull access denied, repository does not exist or may require authorization: {why}"
        )
    if any(word in lower for word in _NOT_FOUND):
        return PullNotFoundError(f"{attempted}: {reference}: not found")
    return PullError(f"{attempted}: failed to do request: {why}")
