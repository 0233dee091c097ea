"""What Debian's maintainer scripts would have done: the parts of it a container needs.

Packages are unpacked, never configured: no foreign script runs. So we lay out the merged /usr before, and
afterwards make users from base-passwd's masters, /bin/sh, busybox's applets, the CA bundle and the linker
cache ourselves.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from podling.runtime.images.errors import BuildError
from podling.runtime.images.tree import Entries

_DIRECTORIES = (
    *("boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "run", "run/lock", "srv", "sys"),
    *("usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "usr/share", "usr/local", "usr/local/bin"),
    *("var", "var/cache", "var/lib", "var/log", "var/spool"),
)
_MERGED = ("bin", "sbin", "lib", "lib64")

_PASSWD_MASTERS = Path("/usr/share/base-passwd")
# Where the host has no base-passwd, which is not Debian's doing.
_FALLBACK = {
    "passwd": (
        "root:*:0:0:root:/root:/bin/sh\n"
        "www-data:*:33:33:www-data:/var/www:/usr/sbin/nologin\n"
        "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": "root:*:0:\nstaff:*:50:\nwww-data:*:33:\nnogroup:*:65534:\n",
}
_SHELLS = ("dash", "busybox", "bash")
_ALTERNATIVES = {"awk": ("mawk", "gawk", "original-awk"), "nc": ("nc.openbsd", "nc.traditional")}

DEFAULT_EXCLUDES = (
    "usr/share/doc/**",
    "usr/share/man/**",
    "usr/share/info/**",
    "usr/share/locale/**",
    "usr/share/lintian/**",
    "usr/share/bug/**",
    "usr/share/doc-base/**",
    "usr/share/menu/**",
    "usr/share/bash-completion/**",
    "etc/init.d/**",
    "etc/cron*/**",
    "etc/logrotate.d/**",
    "usr/lib/systemd/**",
    "lib/systemd/**",
    "var/lib/dpkg/**",
)
# Debian Policy 12.5: the licence travels with the program.
_ALWAYS_KEPT = ("usr/share/doc/*/copyright", "usr/share/common-licenses/*")


def is_wanted(name: str, excludes: tuple[str, ...]) -> bool:
    """Whether a package's file goes into the image. `**` at a pattern's end takes all below."""
    from fnmatch import fnmatchcase

    if any(fnmatchcase(name, pattern) for pattern in _ALWAYS_KEPT):
        return True
    return not any(fnmatchcase(name, pattern.replace("**", "*")) for pattern in excludes)


def before_packages(epoch_s: int) -> Entries:
    entries = Entries(epoch_s)
    for name in _DIRECTORIES:
        entries.directory(name)
    for name in _MERGED:
        entries.symlink(name, f"usr/{name}")
    entries.directory("root", 0o700)
    entries.directory("tmp", 0o1777)
    entries.directory("var/tmp", 0o1777)
    entries.symlink("var/run", "/run")
    entries.symlink("var/lock", "/run/lock")
    return entries


def after_packages(root: Path, epoch_s: int) -> Entries:
    """`root` holds the unpacked packages; returns what is still to be added."""
    entries = Entries(epoch_s)
    for name in ("passwd", "group"):
        if not (root / "etc" / name).exists():
            entries.file(f"etc/{name}", _users(name, root))
    if not (root / "etc/nsswitch.conf").exists():
        entries.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    if not (root / "etc/os-release").exists():
        _os_release(entries)
    _programs(root, entries)
    _ca_bundle(root, entries)
    return entries


def _users(name: str, root: Path) -> str:
    master = _PASSWD_MASTERS / f"{name}.master"
    text = master.read_text() if master.exists() else _FALLBACK[name]
    return text if (root / "usr/bin/bash").exists() else text.replace(":/bin/bash", ":/bin/sh")


def _os_release(entries: Entries) -> None:
    for path in ("/usr/lib/os-release", "/etc/os-release"):
        if os.path.exists(path):
            entries.file("usr/lib/os-release", Path(path).read_bytes())
            entries.symlink("etc/os-release", "../usr/lib/os-release")
            return


def _programs(root: Path, entries: Entries) -> None:
    made: set[str] = set()

    def link(path: str, target: str) -> None:
        if path not in made and not os.path.lexists(root / path):
            made.add(path)
            entries.symlink(path, target)

    present = [shell for shell in _SHELLS if (root / "usr/bin" / shell).exists()]
    if present:
        link("usr/bin/sh", present[0])
    for name, candidates in _ALTERNATIVES.items():
        for candidate in candidates:
            if (root / "usr/bin" / candidate).exists():
                link(f"usr/bin/{name}", candidate)
    for applet in _busybox_applets(root):
        directory, _, name = applet.rpartition("/")
        # The merged /usr: busybox speaks of /bin/sh and /sbin/ip.
        directory = f"usr/{directory}" if not directory.startswith("usr/") else directory
        link(f"{directory}/{name}", "busybox" if directory == "usr/bin" else "../bin/busybox")


def _busybox_applets(root: Path) -> list[str]:
    program = root / "usr/bin/busybox"
    if not program.exists():
        return []
    try:
        result = subprocess.run(
            [program, "--list-full"], check=True, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise BuildError(f"cannot ask busybox for its applets: {err}") from err
    # linuxrc belongs to an initial ramdisk.
    return [line for line in result.stdout.split() if "/" in line and line != "linuxrc"]


def _ca_bundle(root: Path, entries: Entries) -> None:
    """What update-ca-certificates does: one file of all certificates."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if certificates:
        entries.file(
            "etc/ssl/certs/ca-certificates.crt", b"".join(path.read_bytes() for path in certificates)
        )


def run_ldconfig(root: Path) -> None:
    """Needed only for libraries outside Debian's own directories, which its linker searches without a
    cache."""
    if any((root / "etc/ld.so.conf.d").glob("*.conf")) and (root / "etc/ld.so.conf").exists():
        subprocess.run(["ldconfig", "-X", "-r", root], check=True, capture_output=True, timeout=60)
        (root / "var/cache/ldconfig/aux-cache").unlink(missing_ok=True)
