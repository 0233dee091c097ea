"""`ImageRecord`: one image of the store, as the CRI, the command line and the container builder need it."""

from __future__ import annotations

from dataclasses import dataclass

from podling.runtime.images.oci import ImageConfig, RunConfig

_EMPTY = RunConfig()
MAX_UID = (1 << 32) - 2  # the one above is the kernel's "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    id: str
    """`sha256:` and the hex digest of the image config, as Docker and the CRI have it."""
    repo_tags: tuple[str, ...]
    """Complete names: `docker.io/library/busybox:latest`; empty for a dangling image."""
    repo_digests: tuple[str, ...]
    """`docker.io/library/busybox@sha256:...`: what a registry called it; empty for images made here."""
    manifest_digest: str
    size_bytes: int
    """Sum of the unpacked files of all layers."""
    config: ImageConfig

    @property
    def pinned(self) -> bool:
        """Not for garbage collection: it was loaded or built here, and nobody could bring it back."""
        return not self.repo_digests

    @property
    def run_config(self) -> RunConfig:
        """Entrypoint, cmd, env, user ...; never None."""
        return self.config.config or _EMPTY

    @property
    def hex_id(self) -> str:
        return self.id.removeprefix("sha256:")

    @property
    def user(self) -> str:
        """The config's user as written: `1000`, `1000:1000`, `www-data` or empty."""
        return self.run_config.user or ""

    @property
    def uid(self) -> int | None:
        """The numeric user (root when none is set), or None when the user is a name."""
        name = self.user.partition(":")[0]
        if not name:
            return 0
        return int(name) if _is_uid(name) else None

    @property
    def username(self) -> str:
        """The user's name when it is not numeric, else empty."""
        name = self.user.partition(":")[0]
        return "" if _is_uid(name) else name


def _is_uid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_UID
