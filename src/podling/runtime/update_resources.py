"""UpdateContainerResources: new limits for a running container, and in its record for a later look."""

from __future__ import annotations

import os

import msgspec

from podling.runtime import names
from podling.runtime.core import Core
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.crun import OCIError
from podling.runtime.oci import resource_limits
from podling.runtime.state import ContainerPhase, encode_json, write_whole

IN_FORCE = (ContainerPhase.CREATED, ContainerPhase.RUNNING)


async def update_container_resources(
    core: Core, request: cri.UpdateContainerResourcesRequest
) -> cri.UpdateContainerResourcesResponse:
    container = core.container(request.container_id)
    if request.linux is None:
        raise CRIError(Code.INVALID_ARGUMENT, f"container {container.id!r}: no resources given")
    async with container.lock:
        record = container.record
        if record.phase not in IN_FORCE:
            raise CRIError(Code.FAILED_PRECONDITION, f"container {container.id!r} is {record.phase}")
        if container.running:
            await _apply(core, container.id, request.linux)
        linux = record.config.linux or cri.LinuxContainerConfig()
        linux.resources = _merged(linux.resources, request.linux)
        record.config.linux = linux
        if not container.running:
            _write_specification(core, container.id, linux.resources)
        core.records.save_container(record)
    return cri.UpdateContainerResourcesResponse()


async def _apply(core: Core, container_id: str, wanted: cri.LinuxContainerResources) -> None:
    file = core.paths.bundle(container_id) / f"update-{names.new_id()[:12]}.json"
    file.write_bytes(encode_json(resource_limits(wanted, core.host)))
    try:
        await core.crun.update(container_id, file)
    except OCIError as err:
        raise CRIError(Code.UNKNOWN, f"failed to update resources of {container_id!r}: {err}") from err
    finally:
        os.unlink(file)


def _write_specification(core: Core, container_id: str, wanted: cri.LinuxContainerResources) -> None:
    """Of a container that has not started: crun reads it then."""
    file = core.paths.bundle(container_id) / "config.json"
    spec = msgspec.json.decode(file.read_bytes())
    kept = {key: value for key, value in spec["linux"]["resources"].items() if key == "devices"}
    spec["linux"]["resources"] = kept | resource_limits(wanted, core.host)
    write_whole(file, encode_json(spec))


def _merged(
    old: cri.LinuxContainerResources | None, new: cri.LinuxContainerResources
) -> cri.LinuxContainerResources:
    """Zero means unsaid, so the old value stays."""
    if old is None:
        return new
    fields = cri.LinuxContainerResources.__struct_fields__
    return cri.LinuxContainerResources(**{name: getattr(new, name) or getattr(old, name) for name in fields})
