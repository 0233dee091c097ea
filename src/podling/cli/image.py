"""`podling image`: build, load, import, pull, list, tag and remove images of this machine's store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from podling.runtime.images.oci import RunConfig
    from podling.runtime.images.record import ImageRecord
    from podling.runtime.images.store import ImageStore

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.group()
@click.option(
    "--image-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PODLING_IMAGE_DIR",
    default="/var/lib/podling/images",
    show_default=True,
    help="The store, shared by all nodes and clusters of the machine.",
)
@click.pass_context
def command(ctx: click.Context, image_dir: Path) -> None:
    """Build, load, list and remove images."""
    ctx.obj = image_dir


def _store(ctx: click.Context) -> ImageStore:
    from podling.runtime.images.store import ImageStore

    return ImageStore(ctx.obj)


def _short(record: ImageRecord) -> str:
    return record.hex_id[:12]


@command.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Only image ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--digests", is_flag=True, help="Show digests.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@click.pass_context
def list_(ctx: click.Context, quiet: bool, no_trunc: bool, digests: bool, output: str) -> None:
    """List images, newest build first."""
    records = sorted(_store(ctx).list(), key=lambda record: record.config.created or "", reverse=True)
    if quiet:
        for record in records:
            click.echo(record.id if no_trunc else _short(record))
        return
    if output == "json":
        import msgspec

        data = msgspec.json.format(msgspec.json.encode([_as_json(record) for record in records]))
        click.echo(data)
        return
    header = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE"]
    rows = [row for record in records for row in _rows(record, no_trunc=no_trunc, digests=digests)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rows(record: ImageRecord, *, no_trunc: bool, digests: bool) -> list[list[str]]:
    from podling.runtime.images.reference import parse_reference

    names = [parse_reference(name) for name in record.repo_tags]
    pairs = [(name.familiar_repository, name.tag or "<none>") for name in names]
    if not pairs:
        pairs = [
            (parse_reference(name).familiar_repository, "<none>") for name in record.repo_digests[:1]
        ] or [("<none>", "<none>")]
    tail = [record.id if no_trunc else _short(record), _age(record.config.created), _size(record.size_bytes)]
    return [[*pair, *([record.manifest_digest] if digests else []), *tail] for pair in pairs]


def _as_json(record: ImageRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "repoTags": record.repo_tags,
        "repoDigests": record.repo_digests,
        "manifestDigest": record.manifest_digest,
        "sizeBytes": record.size_bytes,
        "config": record.config,
    }


def _size(size_bytes: int) -> str:
    """Docker's units: powers of 1000, three digits."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g}{unit}"


def _age(created: str | None) -> str:
    """Docker's words: `5 minutes ago`, `3 weeks ago`."""
    from datetime import UTC, datetime

    if not created:
        return "N/A"
    try:
        then = datetime.fromisoformat(created.replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        return "N/A"
    seconds = max((datetime.now(UTC) - then).total_seconds(), 0)
    if seconds < 1:
        return "Less than a second ago"
    if then.timestamp() == 0:
        return "N/A"
    steps = (
        (1, 60, "second"),
        (60, 60, "minute"),
        (3600, 48, "hour"),
        (86400, 14, "day"),
        (604800, 13, "week"),
    )
    for unit_s, limit, name in (*steps, (2592000, 24, "month"), (31536000, 10**6, "year")):
        count = int(seconds // unit_s)
        if count < limit:
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "N/A"


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Name for an archive of one image."
)
@click.pass_context
def load(ctx: click.Context, file: Path, tags: tuple[str, ...]) -> None:
    """Load a docker-archive or oci-archive FILE (`-` for standard input), possibly compressed."""
    from podling.runtime.images.archive import load_archive

    with _input(file) as path:
        loaded = load_archive(_store(ctx), path, tags)
    for record, names in loaded:
        for name in names:
            click.echo(f"Loaded image: {_familiar(str(name))}")
        if not names:
            click.echo(f"Loaded image ID: {record.id}")


@command.command("import")
@click.argument("file", type=_FILE)
@click.argument("name", required=False, metavar="[NAME[:TAG]]")
@click.option("--entrypoint", help="JSON list, or words.")
@click.option("--cmd", help="JSON list, or words.")
@click.option("--env", multiple=True, metavar="KEY=VALUE")
@click.option("--user", metavar="USER[:GROUP]")
@click.option("--expose", multiple=True, metavar="PORT[/PROTO]")
@click.option("--workdir", metavar="DIR")
@click.option("--label", multiple=True, metavar="KEY=VALUE")
@click.option("-m", "--message", default="", help="Comment in the history.")
@click.pass_context
def import_(ctx: click.Context, /, file: Path, name: str | None, message: str, **options: Any) -> None:
    """Make an image from a root file system's tar FILE (`-` for standard input), possibly compressed."""
    from podling.runtime.images.archive import import_rootfs

    config = _run_config(options)
    with _input(file) as path:
        record = import_rootfs(_store(ctx), path, name, config=config, message=message)
    click.echo(record.id)


@command.command()
@click.option("-t", "--tag", "tags", multiple=True, required=True, metavar="NAME[:TAG]")
@click.option(
    "--package", "packages", multiple=True, metavar="PKG", help="A Debian package, with all it depends on."
)
@click.option("--without", multiple=True, metavar="PKG", help="Leave this dependency out.")
@click.option("--exclude", "excludes", multiple=True, metavar="GLOB", help="Leave these package files out.")
@click.option("--from-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "--copy", "copies", multiple=True, metavar="SRC:DST", help="Copy a file, or a directory's content."
)
@click.option("--entrypoint", help="JSON list, or words.")
@click.option("--cmd", help="JSON list, or words.")
@click.option("--env", multiple=True, metavar="KEY=VALUE")
@click.option("--user", metavar="USER[:GROUP]")
@click.option("--expose", multiple=True, metavar="PORT[/PROTO]")
@click.option("--workdir", metavar="DIR")
@click.option("--label", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="/var/cache/podling/packages",
    show_default=True,
    help="Downloaded packages; a repeated build needs no network.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the image id only.")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    tags: tuple[str, ...],
    packages: tuple[str, ...],
    without: tuple[str, ...],
    excludes: tuple[str, ...],
    from_dir: Path | None,
    copies: tuple[str, ...],
    cache_dir: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an image from Debian packages, a directory and copied files.

    \b
    podling image build -t web --package nginx --copy site:/usr/share/nginx/html --cmd 'nginx -g "daemon
    off;"' podling image build -t mine --from-dir ./rootfs --entrypoint '["/bin/server"]' --user 1000
    """
    import os

    from podling.runtime.images import build as builder

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    spec = builder.BuildSpec(
        names=tags,
        packages=packages,
        without=without,
        excludes=excludes,
        from_dir=from_dir,
        copies=tuple(_copy(text) for text in copies),
        config=_run_config(options),
    )
    record = builder.build(
        _store(ctx),
        spec,
        cache_dir=cache_dir,
        epoch_s=int(epoch) if epoch.isdecimal() else None,
        progress=(lambda _: None) if quiet else (lambda text: click.echo(text, err=True)),
    )
    click.echo(record.id)


@command.command()
@click.argument("name")
@click.option("--insecure", is_flag=True, help="Allow plain HTTP and unknown certificates.")
@click.option(
    "--creds",
    metavar="USER[:PASSWORD]",
    envvar="PODLING_REGISTRY_CREDS",
    help="Without the password it is asked for.",
)
@click.option(
    "--authfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Credentials; default: those of podman, skopeo and docker.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the image id only.")
@click.pass_context
def pull(
    ctx: click.Context, /, name: str, insecure: bool, creds: str | None, authfile: Path | None, quiet: bool
) -> None:
    """Fetch an image from its registry; one that was interrupted goes on where it was."""
    import asyncio
    import os

    from podling.cli.pull_progress import ProgressView
    from podling.runtime.images.registry.credentials import RegistryAuth

    if authfile is not None:
        os.environ["REGISTRY_AUTH_FILE"] = str(authfile)
    auth = None
    if creds:
        user, colon, password = creds.partition(":")
        if not colon:
            password = click.prompt("Password", hide_input=True, err=True)
        auth = RegistryAuth(username=user, password=password)
    view = None if quiet else ProgressView()
    try:
        record = asyncio.run(
            _store(ctx).pull(name, auth, use_auth_files=True, insecure=insecure, report=view)
        )
    finally:
        if view is not None:
            view.close()
    click.echo(record.id)


@command.command()
@click.argument("image")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_context
def tag(ctx: click.Context, image: str, name: str) -> None:
    """Give IMAGE a further name."""
    _store(ctx).tag(image, name)


@command.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Remove an image by its id although it has several names.")
@click.pass_context
def rm(ctx: click.Context, images: tuple[str, ...], force: bool) -> None:
    """Remove images; what a container uses stays."""
    from podling.runtime.images.errors import ImageError

    store = _store(ctx)
    failed = False
    for image in images:
        try:
            for line in store.remove(image, force=force):
                click.echo(line)
        except ImageError as err:
            click.echo(f"Error: {err}", err=True)
            failed = True
    if failed:
        sys.exit(1)


@command.command()
@click.option(
    "-a", "--all", "every", is_flag=True, help="All images no container uses, not only dangling ones."
)
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation.")
@click.pass_context
def prune(ctx: click.Context, every: bool, force: bool) -> None:
    """Remove unused images, and what interrupted pulls and loads left."""
    from podling.runtime.images.prune import prune as prune_store

    what = "all images without at least one container associated to them" if every else "all dangling images"
    if not force:
        click.echo(f"WARNING! This will remove {what}.")
        if not click.confirm("Are you sure you want to continue?"):
            return
    pruned = prune_store(_store(ctx), every=every)
    if pruned.lines:
        click.echo("Deleted Images:\n" + "\n".join(pruned.lines) + "\n")
    click.echo(f"Total reclaimed space: {_size(pruned.freed_bytes)}")


@command.command()
@click.argument("image")
@click.pass_context
def inspect(ctx: click.Context, image: str) -> None:
    """Show an image as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(_as_json(_store(ctx).get(image)))))


@command.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Build the demo's images: busybox, nginx and blog."""
    from podling.runtime.images.build import build_if_changed
    from podling.runtime.images.demo import RECIPES

    store = _store(ctx)
    for recipe in RECIPES:
        record, built = build_if_changed(store, recipe(), progress=lambda text: click.echo(text, err=True))
        state = "built" if built else "up to date"
        click.echo(f"{_familiar(record.repo_tags[0])} {state}, {_size(record.size_bytes)}, {_short(record)}")


def _familiar(name: str) -> str:
    from podling.runtime.images.reference import parse_reference

    reference = parse_reference(name)
    return f"{reference.familiar_repository}:{reference.tag}"


@contextmanager
def _input(file: Path) -> Iterator[Path]:
    """FILE itself; standard input is put on disk first, since archives are read out of order."""
    if str(file) != "-":
        yield file
        return
    import shutil
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="podling-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _run_config(options: dict[str, Any]) -> RunConfig:
    from podling.runtime.images.oci import RunConfig

    return RunConfig(
        entrypoint=_words(options["entrypoint"], "--entrypoint"),
        cmd=_words(options["cmd"], "--cmd"),
        env=[_pair(text, "--env") for text in options["env"]] or None,
        user=options["user"],
        exposed_ports={_port(text): {} for text in options["expose"]} or None,
        working_dir=options["workdir"],
        labels=dict(_pair(text, "--label").split("=", 1) for text in options["label"]) or None,
    )


def _words(text: str | None, option: str) -> list[str] | None:
    """`["a", "b c"]` as JSON, or `a "b c"` as a shell would split it."""
    import json
    import shlex

    if text is None:
        return None
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as err:
        raise click.BadParameter(f"{text!r}: {err}", param_hint=option) from err
    if not all(isinstance(word, str) for word in words):
        raise click.BadParameter(f"{text!r} is not a list of strings", param_hint=option)
    return list(words)


def _pair(text: str, option: str) -> str:
    if "=" not in text or text.startswith("="):
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
    return text


def _port(text: str) -> str:
    number, _, protocol = text.partition("/")
    if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in ("", "tcp", "udp", "sctp"):
        raise click.BadParameter(f"{text!r} is not PORT[/tcp|udp|sctp]", param_hint="--expose")
    return f"{number}/{protocol or 'tcp'}"


def _copy(text: str) -> tuple[Path, str]:
    source, colon, destination = text.rpartition(":")
    if not colon or not source or not destination.startswith("/"):
        raise click.BadParameter(f"{text!r} is not SRC:/DST", param_hint="--copy")
    return Path(source), destination
