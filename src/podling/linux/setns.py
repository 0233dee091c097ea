"""`setns`, for programs that live ten milliseconds (`man 2 setns`).

Python offers it from 3.12 on, and so does what CNI plugins are executed by (`cni/plugin_python.c`). Before
that it takes `ctypes`, whose import costs a CNI plugin 2 ms; but what is written in C below that, `_ctypes`,
can call a function too. It does not say why the call was refused: then the call is repeated by
`podling.linux.syscalls`, which does.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_found: list[Callable[[int, int], int]] = []


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into the namespace behind `fd`.

    Never call this on a thread that will be reused: see `podling.linux.netns.run_in_netns`.
    """
    if not _found:
        _found.append(_find())
    if _found[0](fd, nstype) != 0:
        from podling.linux import syscalls

        syscalls.setns(fd, nstype)


def _find() -> Callable[[int, int], int]:
    """A way to call it that answers something else than 0 when it did not work."""
    ours = sys.modules.get("_plugin_python", posix)
    offered: Callable[[int, int], None] | None = getattr(ours, "setns", None)
    if offered is not None:
        return lambda fd, nstype: offered(fd, nstype) or 0
    try:
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # all that is loaded
        address, call = _ctypes.dlsym(library, "setns"), _ctypes.call_function
    except (ImportError, AttributeError, OSError):
        return lambda fd, nstype: -1
    return lambda fd, nstype: int(call(address, (fd, nstype)))
