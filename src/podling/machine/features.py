"""What a kernel lacks, in words: turns the errno of a first use into the feature's name and the remedy.

Nothing is probed beforehand: the first use is the probe, and it costs nothing where the feature is there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class MissingFeatureError(OSError):
    """This kernel, or this file system, cannot do what a node needs."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def link_kind(kind: str, config: str) -> Iterator[None]:
    """Around the making of a link: a kernel without the kind answers EOPNOTSUPP."""
    try:
        yield
    except OSError as err:
        if err.errno != errno.EOPNOTSUPP:
            raise
        raise MissingFeatureError(
            errno.EOPNOTSUPP,
            f'this kernel has no "{kind}" links: it needs {config} (try "modprobe {kind}")',
        ) from err


@contextmanager
def overlay_on(directory: str) -> Iterator[None]:
    """Around the mount of an overlay whose upper layer lies in `directory`."""
    try:
        yield
    except OSError as err:
        if err.errno == errno.ENODEV:
            text = (
                'this kernel has no overlay file system: it needs CONFIG_OVERLAY_FS (try "modprobe overlay")'
            )
        elif err.errno == errno.EINVAL:
            text = (
                f"{directory} lies on a file system that cannot hold an overlay's upper layer (an overlay "
                "itself, as inside a container, or a network file system): mount a disk or a tmpfs on "
                "/var/lib/podling"
            )
        else:
            raise
        raise MissingFeatureError(err.errno, text) from err
