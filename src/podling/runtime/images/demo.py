"""The demo's images: busybox, nginx and a blog, made from the host's Debian packages and our own blog.

`podling image demo`, or `python -m podling.runtime.images.demo [IMAGE_DIR]`. Built once; a second call finds
them done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podling.runtime.images.build import BuildSpec, File, build_if_changed
from podling.runtime.images.errors import BuildError
from podling.runtime.images.oci import RunConfig
from podling.runtime.images.record import ImageRecord
from podling.runtime.images.store import DEFAULT_IMAGE_DIR, ImageStore

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Character set converters of libc6, 8 MB: for iconv(1) only, Python and nginx bring their own.
_NO_GCONV = ("usr/lib/*/gconv/**", "lib/*/gconv/**")

# The parts of libc6 that netstat does not load.
_LIBC_ONLY = (
    "*/libm.so*",
    "*/libm-*",
    "*/libmvec*",
    "*/libnss_*",
    "*/libthread_db*",
    "*/libpcprofile*",
    "*/libmemusage*",
)

_NGINX_CONF = """\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log notice;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
"""

# Not default_server: a file that a user adds beside it may claim that, and takes over port 80.
_NGINX_DEFAULT = """\
server {
    listen 80;
    server_name _;
    root /usr/share/nginx/html;
    index index.html;
}
"""


def busybox() -> BuildSpec:
    return BuildSpec(
        names=("busybox",),
        # Debian builds busybox without `netstat -p`, which everyone types who looks into a pod: take the real
        # one.
        packages=("busybox-static", "net-tools"),
        excludes=(*_NO_GCONV, *_LIBC_ONLY, "sbin/**", "usr/sbin/**"),
        config=RunConfig(env=[_PATH], cmd=["sh"]),
    )


def nginx() -> BuildSpec:
    return BuildSpec(
        names=("nginx",),
        # busybox: a shell and wget for whoever looks inside.
        packages=("nginx", "busybox-static"),
        # nginx's own package wants iproute2 for a maintainer script.
        without=("iproute2",),
        excludes=(
            *_NO_GCONV,
            "usr/lib/*/engines-*/**",
            "etc/nginx/sites-*/**",
            "etc/ufw/**",
            "etc/default/**",
        ),
        files=(
            File(path="/etc/nginx/nginx.conf", content=_NGINX_CONF),
            File(path="/etc/nginx/conf.d/default.conf", content=_NGINX_DEFAULT),
            File(path="/var/log/nginx/access.log", target="/dev/stdout"),
            File(path="/var/log/nginx/error.log", target="/dev/stderr"),
        ),
        config=RunConfig(
            env=[_PATH],
            cmd=["nginx", "-g", "daemon off;"],
            exposed_ports={"80/tcp": {}},
            stop_signal="SIGQUIT",
        ),
    )


def blog() -> BuildSpec:
    return BuildSpec(
        names=("blog",),
        packages=("python3-minimal", "busybox-static"),
        without=("libssl3", "libssl3t64"),
        excludes=(*_NO_GCONV, "usr/share/python3/**"),
        copies=((blog_source(), "/srv/blog"),),
        compile_python=("/usr/lib/python3.*",),
        config=RunConfig(
            env=[_PATH, "PYTHONUNBUFFERED=1"],
            entrypoint=["python3", "/srv/blog/blog.py"],
            working_dir="/srv/blog",
            user="1000:1000",
            exposed_ports={"2368/tcp": {}},
        ),
    )


def blog_source() -> Path:
    """examples/blog of the source tree."""
    for parent in Path(__file__).resolve().parents:
        source = parent / "examples" / "blog"
        if (source / "blog.py").exists():
            return source
    raise BuildError(
        "the blog's source, examples/blog, is not beside this installation",
        remedy="run from a source checkout of podling",
    )


RECIPES: tuple[Callable[[], BuildSpec], ...] = (busybox, nginx, blog)


def build_all(
    store: ImageStore, *, progress: Callable[[str], None] = lambda _: None, **options: Any
) -> list[tuple[ImageRecord, bool]]:
    """All of them; the flag says whether the image was built now."""
    return [build_if_changed(store, recipe(), progress=progress, **options) for recipe in RECIPES]


def main() -> None:
    store = ImageStore(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_IMAGE_DIR)
    for recipe in RECIPES:
        start = time.monotonic()
        record, built = build_if_changed(store, recipe())
        took = f"built in {time.monotonic() - start:.1f} s" if built else "is up to date"
        print(f"{record.repo_tags[0]} {took}, {record.size_bytes / 1e6:.1f} MB, {record.hex_id[:12]}")


if __name__ == "__main__":
    main()
