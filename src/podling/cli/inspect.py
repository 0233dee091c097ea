"""`podling inspect`: everything about a container or a sandbox's pause, in Docker's JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podling.cli.containers import open_view, runtime_dirs

if TYPE_CHECKING:
    from podling.runtime.byhand.settings import Settings
    from podling.runtime.cri import messages as cri
    from podling.runtime.state import ContainerRecord, Paths
    from podling.runtime.view import Seen

NEVER = "0001-01-01T00:00:00Z"
"""Docker's zero time."""


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="ID|NAME...")
@click.option("-f", "--format", "form", default="", help="json, or a Go template.")
@runtime_dirs
def command(form: str, names: tuple[str, ...], root_dir: Path | None, run_dir: Path | None) -> int:
    """Show all about containers or sandboxes as JSON."""
    view = open_view(root_dir, run_dir)
    documents, missing = [], []
    for name in names:
        found = view.find(name)
        if len(found) == 1:
            documents.append(describe(found[0], found[0].paths))
        else:
            missing.append(name)
    return print_documents(documents, form, [f"No such object: {name}" for name in missing])


def print_documents(documents: list[dict[str, Any]], form: str, problems: list[str]) -> int:
    """JSON, or with a template what it makes of each; then what is wrong. Returns the exit code."""
    from podling.cli.template import TemplateError, parse, render

    try:
        nodes = parse("{{json .}}" if form == "json" else form)
        if form:
            for document in documents:
                click.echo(render(nodes, document))
        else:
            click.echo(json.dumps(documents, indent=4))
    except TemplateError as err:
        problems = [str(err), *problems]
    for text in problems:
        click.echo(f"Error: {text}", err=True)
    return 1 if problems else 0


def describe(one: Seen, paths: Paths) -> dict[str, Any]:
    container = one.container
    return {
        "Id": one.id,
        "Created": moment(one.created_at),
        "Path": one.command[0] if one.command else "",
        "Args": one.command[1:],
        "State": {
            "Status": str(one.state),
            "Running": one.state == "running",
            "OOMKilled": bool(container and container.reason == "OOMKilled"),
            "Dead": False,
            "Pid": one.pid,
            "ExitCode": one.exit_code,
            "Error": container.message if container else "",
            "StartedAt": moment(one.started_at),
            "FinishedAt": moment(one.finished_at),
        },
        "Image": container.image_id if container else one.image,
        **_files(one, paths),
        "LogPath": container.log_path if container else "",
        "Name": f"/{one.name}",
        "Driver": "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "RestartCount": one.settings.restarts if one.settings else 0,
        "HostConfig": _host_config(one),
        "GraphDriver": _layers(one, paths),
        "Mounts": _mounts(container),
        "Config": _config(one, paths),
        "NetworkSettings": network_settings(one),
    }


def _files(one: Seen, paths: Paths) -> dict[str, str]:
    """Of the sandbox; of a container run by hand its own, or those of the one whose network it shares."""
    from podling.runtime.byhand.settings import joined

    if one.settings is not None:
        folder = paths.sandbox(joined(one.settings.network) or one.id)
        hosts = str(folder / "hosts")
    elif one.sandbox is not None:
        folder, hosts = paths.sandbox(one.sandbox.id), _hosts_path(one.container)
    else:
        return {"ResolvConfPath": "", "HostnamePath": "", "HostsPath": _hosts_path(one.container)}
    return {
        "ResolvConfPath": str(folder / "resolv.conf"),
        "HostnamePath": str(folder / "hostname"),
        "HostsPath": hosts,
    }


def network_settings(one: Seen) -> dict[str, Any]:
    sandbox, settings = one.sandbox, one.settings
    ips = settings.ips if settings else sandbox.ips if sandbox else []
    described: dict[str, Any] = {
        "SandboxID": sandbox.id if sandbox else "",
        "SandboxKey": settings.netns if settings else sandbox.netns if sandbox else "",
        "IPAddress": ips[0] if ips else "",
        "GlobalIPv6Address": next((ip for ip in ips if ":" in ip), ""),
    }
    if settings is not None:
        ports = settings.ports if one.state == "running" else []
        described["Ports"] = {
            f"{port.container_port}/{port.protocol}": [
                {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)}
            ]
            for port in ports
        }
        described["Networks"] = {settings.network: {"IPAddress": ips[0]}} if ips else {}
    return described


def moment(ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    if not ns:
        return NEVER
    whole = datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{ns % 1_000_000_000:09d}Z"


def _host_config(one: Seen) -> dict[str, Any]:
    from podling.runtime.cri.messages import NamespaceMode
    from podling.runtime.oci import namespace_options, security_context

    own = namespace_options(one.sandbox.config.linux if one.sandbox else None)
    node = {True: "host", False: ""}
    if one.container is None:
        modes = {
            "NetworkMode": node[own.network is NamespaceMode.NODE] or "none",
            "PidMode": node[own.pid is NamespaceMode.NODE],
            "IpcMode": node[own.ipc is NamespaceMode.NODE] or "shareable",
            "UTSMode": node[own.network is NamespaceMode.NODE],
        }
        return {**modes, "CgroupParent": _parent(one), "Privileged": False, "ReadonlyRootfs": True}
    context = security_context(one.container.config)
    options = context.namespace_options or own
    if one.settings is not None:
        return {**_modes(one.settings), **_limits(one, context)}
    shared = f"container:{one.container.sandbox_id}"
    return {
        # As dockershim had it: all that is not the container's own comes through pause, the node's too.
        "NetworkMode": shared,
        "PidMode": {NamespaceMode.POD: shared, NamespaceMode.NODE: "host"}.get(options.pid, ""),
        "IpcMode": shared,
        "UTSMode": node[options.network is NamespaceMode.NODE],
        **_limits(one, context),
    }


def _modes(settings: Settings) -> dict[str, Any]:
    return {
        "NetworkMode": settings.network,
        "PidMode": settings.pid,
        "IpcMode": settings.ipc or "shareable",
        "UTSMode": "host" if settings.network == "host" else "",
        "AutoRemove": settings.auto_remove,
        "RestartPolicy": {
            "Name": settings.restart.policy,
            "MaximumRetryCount": settings.restart.retries,
        },
        "PortBindings": {
            f"{port.container_port}/{port.protocol}": [
                {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
            ]
            for port in settings.ports
        },
    }


def _limits(one: Seen, context: cri.LinuxContainerSecurityContext) -> dict[str, Any]:
    linux = one.container.config.linux if one.container else None
    resources = linux.resources if linux else None
    return {
        "CgroupParent": _parent(one),
        "Privileged": context.privileged,
        "ReadonlyRootfs": context.readonly_rootfs,
        "CapAdd": list(context.capabilities.add_capabilities) if context.capabilities else [],
        "CapDrop": list(context.capabilities.drop_capabilities) if context.capabilities else [],
        "CpuShares": resources.cpu_shares if resources else 0,
        "CpuPeriod": resources.cpu_period if resources else 0,
        "CpuQuota": resources.cpu_quota if resources else 0,
        "Memory": resources.memory_limit_in_bytes if resources else 0,
        "OomScoreAdj": resources.oom_score_adj if resources else 0,
        "LogConfig": {"Type": "cri", "Config": {}},
    }


def _parent(one: Seen) -> str:
    cgroup = one.container.cgroup if one.container else one.sandbox.cgroup if one.sandbox else ""
    return cgroup.rpartition("/")[0]


def _layers(one: Seen, paths: Paths) -> dict[str, Any]:
    if one.container is None:
        return {"Name": "none", "Data": {"MergedDir": str(paths.pause_rootfs)}}
    layer = paths.layer(one.id)
    data = {"UpperDir": layer / "upper", "WorkDir": layer / "work", "MergedDir": layer / "rootfs"}
    return {"Name": "overlay", "Data": {key: str(path) for key, path in data.items()}}


def _mounts(container: ContainerRecord | None) -> list[dict[str, Any]]:
    return [_mount(mount) for mount in container.config.mounts] if container else []


def _mount(mount: cri.Mount) -> dict[str, Any]:
    from podling.runtime.oci import PROPAGATION

    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Destination": mount.container_path,
        "Mode": "ro" if mount.readonly else "",
        "RW": not mount.readonly,
        "Propagation": PROPAGATION[mount.propagation],
    }


def _hosts_path(container: ContainerRecord | None) -> str:
    mounts = container.config.mounts if container else []
    return next((mount.host_path for mount in mounts if mount.container_path == "/etc/hosts"), "")


def _config(one: Seen, paths: Paths) -> dict[str, Any]:
    sandbox = one.sandbox
    hostname = one.settings.hostname if one.settings else sandbox.config.hostname if sandbox else ""
    shared = {"Hostname": hostname, "Image": one.image}
    if one.container is None:
        labels = sandbox.config.labels if sandbox else {}
        return {**shared, "Cmd": [], "Entrypoint": one.command, "Env": [], "Labels": labels}
    config, user = one.container.config, one.container.user
    process = _process(one, paths)
    return {
        **shared,
        "User": f"{user.uid}:{user.gid}",
        "Tty": config.tty,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Env": process.get("env", []),
        "Cmd": one.command[1:],
        "Entrypoint": one.command[:1],
        "WorkingDir": process.get("cwd", config.working_dir),
        "Labels": config.labels,
        "Annotations": config.annotations,
        "StopSignal": one.container.stop_signal,
    }


def _process(one: Seen, paths: Paths) -> dict[str, Any]:
    """From the bundle's specification, which a reboot takes away."""
    try:
        specification = json.loads((paths.bundle(one.id) / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    process: dict[str, Any] = specification["process"]
    return process
