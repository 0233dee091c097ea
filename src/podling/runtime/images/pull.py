"""Pull: resolve a name at its registry, fetch what is missing, install.

Resolve: the digest behind the name is the image's repo digest (of the index, when there are several
platforms). Fetch: by digest only, so that a tag moved meanwhile cannot mix two images. Layers of an
interrupted pull and of other images are not fetched again. Install: the store unpacks and names the image in
one step; before it there is nothing to see.

Mirrors are asked first, the registry itself last; what one had is kept when the next goes on. Errors read
as containerd's do, because that is what people know from `kubectl describe pod`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from podling.runtime.images import manifests, partial, platforms
from podling.runtime.images.download import Downloader, Phase, PullProgress, Report, check_room
from podling.runtime.images.errors import ImageError, InvalidImageError, PullError, PullNotFoundError
from podling.runtime.images.oci import Descriptor, Index, Manifest
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.reference import DEFAULT_DOMAIN, Reference, parse_reference
from podling.runtime.images.registry.client import Fetched, PullSettings, RegistryClient
from podling.runtime.images.registry.config import DOCKER_HUB_HOST, Endpoint, load_registries
from podling.runtime.images.registry.credentials import RegistryAuth, find_credentials
from podling.runtime.images.registry.errors import DeniedFault, MissingFault, RegistryFault
from podling.runtime.images.store import ImageStore, Session

T = TypeVar("T")
_MAX_INDEX_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    auth: RegistryAuth | None = None
    use_auth_files: bool = False
    """Without `auth`: look into docker's, podman's and skopeo's files."""
    insecure: bool = False
    """Take unknown certificates and plain HTTP."""
    report: Report = lambda _: None


async def pull(store: ImageStore, ref: str, options: PullOptions) -> ImageRecord:
    """See `ImageStore.pull`."""
    reference = parse_reference(ref)
    config = await asyncio.to_thread(load_registries, store.pull_settings.registries_conf)
    endpoints = config.endpoints(reference)
    if options.insecure:
        endpoints = [replace(endpoint, insecure=True) for endpoint in endpoints]
    async with _session(store) as session:
        work = _Pull(store, session, reference, options)
        tried: list[str] = []
        for endpoint in endpoints[:-1]:
            try:
                return await work.from_endpoint(endpoint)
            except ImageError as err:
                tried.append(f"mirror {endpoint}: {err.message}")
        try:
            return await work.from_endpoint(endpoints[-1])
        except ImageError as err:
            err.remedy = err.remedy or "; ".join(tried)
            raise


@asynccontextmanager
async def _session(store: ImageStore) -> AsyncIterator[Session]:
    """The store's session from a coroutine: entering may wait for a lock, leaving deletes files."""
    context = store.session()
    entering = asyncio.ensure_future(asyncio.to_thread(context.__enter__))
    try:
        session = await asyncio.shield(entering)
        yield session
    finally:
        await asyncio.shield(_leave(entering, context.__exit__))


async def _leave(entering: asyncio.Future[Session], leave: Callable[..., object]) -> None:
    await asyncio.wait([entering])
    if entering.exception() is None:
        await asyncio.to_thread(leave, None, None, None)


class _Pull:
    """One image, from one endpoint after the other."""

    def __init__(
        self, store: ImageStore, session: Session, reference: Reference, options: PullOptions
    ) -> None:
        self._store = store
        self._session = session
        self._reference = reference
        self._options = options
        self._attempted = f'failed to pull and unpack image "{reference}"'

    @property
    def _settings(self) -> PullSettings:
        return self._store.pull_settings

    async def from_endpoint(self, endpoint: Endpoint) -> ImageRecord:
        """Raises `ImageError`."""
        auth = await self._credentials(endpoint)
        try:
            async with RegistryClient(endpoint, auth, self._settings) as client:
                try:
                    present = await self._look(client)
                    found = None if present else await self._persist(lambda: self._top(client))
                except RegistryFault as err:
                    raise self._resolve_error(err) from err
                if present is not None:
                    return present
                assert found is not None
                try:
                    return await self._fetch(client, found)
                except RegistryFault as err:
                    raise PullError(f"{self._attempted}: failed to copy: {err}") from err
        except RegistryFault as err:  # of the client's own making: a certificate that cannot be read
            raise PullError(f"{self._attempted}: {err}") from err
        except InvalidImageError as err:
            raise InvalidImageError(f"{self._attempted}: {err.message}", err.remedy) from err
        except OSError as err:
            raise PullError(f"{self._attempted}: {(err.strerror or str(err)).lower()}") from err

    async def _credentials(self, endpoint: Endpoint) -> RegistryAuth | None:
        """Only what was given for this registry: a mirror is somebody else."""
        domain = DEFAULT_DOMAIN if endpoint.host == DOCKER_HUB_HOST else endpoint.host
        auth = self._options.auth
        if auth is None and self._options.use_auth_files:
            return await find_credentials(Reference(domain, endpoint.repository))
        if auth is None or not auth.is_for(domain, self._reference.domain):
            return None
        return auth

    # resolve

    async def _look(self, client: RegistryClient) -> ImageRecord | None:
        """The image when the store has what the registry means by the name: one small question, no limit of
        a registry's spent on it. Also for a digest, since the answer tells that we may have the image."""
        repository = self._reference.repository
        known = [
            record
            for record in self._store.list()
            if any(name.startswith(f"{repository}@") for name in record.repo_digests)
        ]
        if not known:
            return None
        try:
            digest = await self._persist(lambda: client.head(self._name))
        except DeniedFault:
            raise
        except RegistryFault:
            return None  # the GET will tell
        record = self._store.resolve(f"{repository}@{digest}") if digest else None
        if record is None or (self._reference.digest not in (None, digest)):
            return None
        return await asyncio.to_thread(self._session.name, record, self._names, [f"{repository}@{digest}"])

    async def _top(self, client: RegistryClient) -> Fetched:
        return await client.manifest(self._name)

    @property
    def _name(self) -> str:
        return self._reference.digest or self._reference.tag or "latest"

    @property
    def _names(self) -> list[Reference]:
        """With a digest the tag is decoration: it may mean another image by now."""
        return [] if self._reference.digest else [self._reference]

    def _resolve_error(self, err: RegistryFault) -> PullError:
        attempted = f'{self._attempted}: failed to resolve reference "{self._reference}"'
        if isinstance(err, DeniedFault):
            # A registry does not tell strangers whether a private image exists.
            return PullError(
                f"{attempted}: pull access denied, repository does not exist or may require authorization: "
                f"{err}"
            )
        if isinstance(err, MissingFault):
            return PullNotFoundError(f"{attempted}: {self._reference}: not found")
        return PullError(f"{attempted}: failed to do request: {err}")

    # fetch

    async def _fetch(self, client: RegistryClient, top: Fetched) -> ImageRecord:
        chosen, manifest = await self._descend(client, top, 0)
        manifests.check_manifest(manifest, f"manifest {top.digest}")
        config = manifest.config.digest

        def report(progress: PullProgress) -> None:
            if progress.digest != config:  # no layer, and of no interest to people
                self._options.report(progress)

        downloader = Downloader(self._store.layout, client, self._settings, report)
        await asyncio.to_thread(self._check_sizes, manifest)
        await downloader.fetch_all([manifest.config, *manifest.layers])
        for layer in manifest.layers:
            self._tell(Phase.EXTRACTING, layer)
        record = await asyncio.to_thread(self._install, chosen, manifest, top.digest)
        for layer in manifest.layers:
            self._tell(Phase.DONE, layer)
        return record

    async def _descend(self, client: RegistryClient, found: Fetched, depth: int) -> tuple[Fetched, Manifest]:
        """Through indexes to this machine's manifest."""
        document = manifests.read_document(found.data, f"manifest {found.digest}")
        if isinstance(document, Manifest):
            return found, document
        if depth >= _MAX_INDEX_DEPTH:
            raise InvalidImageError(f"manifest {found.digest} nests image indexes too deeply")
        entry = self._choose(document, found.digest)
        inner = await self._persist(lambda: client.manifest(entry.digest))
        return await self._descend(client, inner, depth + 1)

    def _choose(self, index: Index, digest: str) -> Descriptor:
        entry = platforms.choose(index.manifests)
        if entry is None:
            raise PullNotFoundError(
                f"{self._attempted}: no match for platform in manifest {digest}: not found: "
                f"it has {platforms.describe(index.manifests)}, this machine is {platforms.this_machine()}"
            )
        return entry

    def _check_sizes(self, manifest: Manifest) -> None:
        limits = self._store.limits
        missing = [layer for layer in manifest.layers if not self._session.has_blob(layer)]
        if sum(layer.size for layer in manifest.layers) > limits.max_bytes:
            raise InvalidImageError(f"layers have more than {limits.max_bytes} bytes")
        check_room(self._store.image_dir, missing, min_free_bytes=limits.min_free_bytes)

    def _install(self, chosen: Fetched, manifest: Manifest, digest: str) -> ImageRecord:
        stored = self._session.add_blob(chosen.data, manifest.media_type)
        record = self._session.install(stored, self._names, [f"{self._reference.repository}@{digest}"])
        partial.named(self._store.layout.downloads, [manifest.config, *manifest.layers])
        return record

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again after passing faults."""
        for attempt in range(self._settings.attempts):
            try:
                return await ask()
            except RegistryFault as err:
                if not err.passing or attempt + 1 == self._settings.attempts:
                    raise
                await asyncio.sleep(max(err.wait_s, self._settings.backoff_s * 2**attempt))
        raise AssertionError("unreachable")

    def _tell(self, phase: Phase, blob: Descriptor) -> None:
        self._options.report(
            PullProgress(phase=phase, digest=blob.digest, done_bytes=blob.size, size_bytes=blob.size)
        )
