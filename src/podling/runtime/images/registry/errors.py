"""What a registry may answer instead of an image.

    RegistryFault(message, passing)
     ├─ DeniedFault       401 or 403: credentials are missing or wrong, or the repository is hidden
     ├─ MissingFault      404: no such repository, tag or blob
     └─ UnreachableFault  nobody could be connected to: told at once before a pull began, passing within one

`passing` says whether the same request may succeed in a moment: a broken connection, a stalled or
overloaded registry. Whoever asked decides how often to try again.
"""

from __future__ import annotations


class RegistryFault(Exception):
    def __init__(self, message: str, *, passing: bool = False, wait_s: float = 0.0) -> None:
        """`wait_s`: how long the registry asks to be left alone (Retry-After)."""
        super().__init__(message)
        self.passing = passing
        self.wait_s = wait_s


class DeniedFault(RegistryFault):
    pass


class MissingFault(RegistryFault):
    pass


class UnreachableFault(RegistryFault):
    pass
