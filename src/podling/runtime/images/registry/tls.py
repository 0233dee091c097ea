"""TLS towards a registry: the machine's certificate authorities, and those of `certs.d`.

containers-certs.d(5), and Docker's /etc/docker/certs.d: a directory `HOST[:PORT]` with `*.crt` (authorities
to believe besides the machine's) and `*.cert` with `*.key` (to show to the registry).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from podling.runtime.images.registry.errors import RegistryFault

CERTS_DIRS = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def make_tls(host: str, *, insecure: bool, certs_dirs: Sequence[Path] = CERTS_DIRS) -> ssl.SSLContext:
    """Reads files: call it in a thread. Raises `RegistryFault` naming the file that is not valid."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in certs_dirs:
        place = directory / host
        if not place.is_dir():
            continue
        for file in sorted(place.iterdir()):
            try:
                if file.suffix == ".crt":
                    context.load_verify_locations(file)
                elif file.suffix == ".cert":
                    context.load_cert_chain(file, file.with_suffix(".key"))
            except (OSError, ssl.SSLError) as err:
                raise RegistryFault(f"cannot use the certificate {file}: {err}") from err
        break
    return context
