"""The files of configMap, secret, downwardAPI and projected volumes, as plain values.

Pure: objects are fetched before. Kubernetes documentation, "Volumes", and upstream's
`pkg/volume/{configmap,secret,downwardapi,projected}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.container_config import effective_run_as_user
from podling.kubelet.environment import ObjectKey, Sources
from podling.kubelet.field_paths import FieldPathError, PodFacts, field_value, resource_value
from podling.kubelet.tokens import TokenKey

DEFAULT_MODE = 0o644
DEFAULT_TOKEN_LIFETIME_S = 3600


class VolumeError(Exception):
    """The volume cannot be set up: text of the FailedMount event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    content: bytes
    mode: int
    uid: int | None = None
    """Owner; None: root."""


Payload = dict[str, FileEntry]
"""Relative path to file."""


def referenced_objects(volume: core_v1.Volume) -> set[ObjectKey]:
    """Config maps and secrets whose data the volume shows."""
    found: set[ObjectKey] = set()
    if volume.config_map and volume.config_map.name:
        found.add(ObjectKey("ConfigMap", volume.config_map.name))
    if volume.secret and volume.secret.secret_name:
        found.add(ObjectKey("Secret", volume.secret.secret_name))
    for source in volume.projected.sources if volume.projected else ():
        if source.config_map and source.config_map.name:
            found.add(ObjectKey("ConfigMap", source.config_map.name))
        if source.secret and source.secret.name:
            found.add(ObjectKey("Secret", source.secret.name))
    return found


def has_payload(volume: core_v1.Volume) -> bool:
    return any((volume.config_map, volume.secret, volume.downward_api, volume.projected))


def compute_payload(
    pod: core_v1.Pod, volume: core_v1.Volume, *, sources: Sources, facts: PodFacts
) -> Payload:
    """The volume's files. Raises VolumeError."""
    if (config_map := volume.config_map) is not None:
        key = ObjectKey("ConfigMap", config_map.name or "")
        return _from_object(
            key, config_map.items, config_map.optional, sources, mode=_mode(config_map.default_mode)
        )
    if (secret := volume.secret) is not None:
        key = ObjectKey("Secret", secret.secret_name or "")
        return _from_object(key, secret.items, secret.optional, sources, mode=_mode(secret.default_mode))
    if (downward := volume.downward_api) is not None:
        return _from_fields(pod, downward.items, facts, mode=_mode(downward.default_mode))
    if volume.projected is not None:
        return _from_projections(pod, volume.projected, sources, facts)
    return {}


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _from_projections(
    pod: core_v1.Pod, projected: core_v1.ProjectedVolumeSource, sources: Sources, facts: PodFacts
) -> Payload:
    mode = _mode(projected.default_mode)
    payload: Payload = {}
    for source in projected.sources:
        if source.config_map is not None:
            key = ObjectKey("ConfigMap", source.config_map.name or "")
            part = _from_object(key, source.config_map.items, source.config_map.optional, sources, mode=mode)
        elif source.secret is not None:
            key = ObjectKey("Secret", source.secret.name or "")
            part = _from_object(key, source.secret.items, source.secret.optional, sources, mode=mode)
        elif source.downward_api is not None:
            part = _from_fields(pod, source.downward_api.items, facts, mode=mode)
        elif source.service_account_token is not None:
            part = _from_token(pod, source.service_account_token, sources, mode=mode)
        else:
            raise VolumeError(
                "this kind of projected source is not supported: use configMap, secret, downwardAPI or "
                "serviceAccountToken"
            )
        payload.update(part)
    return payload


def _from_token(
    pod: core_v1.Pod, projection: core_v1.ServiceAccountTokenProjection, sources: Sources, *, mode: int
) -> Payload:
    """Readable by the pod's one user or group where it has one (upstream's KEP 2451), else by all."""
    token = sources.tokens[token_key(projection)].encode()
    context = names.pod_spec(pod).security_context
    owner = _only_user(pod)
    if owner is not None or (context is not None and context.fs_group is not None):
        mode = 0o600
    return {_checked(projection.path): FileEntry(content=token, mode=mode, uid=owner)}


def _only_user(pod: core_v1.Pod) -> int | None:
    spec = names.pod_spec(pod)
    users = {effective_run_as_user(pod, c) for c in (*spec.init_containers, *spec.containers)}
    return users.pop() if len(users) == 1 else None


def token_key(projection: core_v1.ServiceAccountTokenProjection) -> TokenKey:
    return TokenKey(projection.audience or "", projection.expiration_seconds or DEFAULT_TOKEN_LIFETIME_S)


def pod_tokens(pod: core_v1.Pod) -> set[TokenKey]:
    """The tokens that the pod's volumes show."""
    projections = (v.projected for v in names.pod_spec(pod).volumes if v.projected)
    sources = (source.service_account_token for projected in projections for source in projected.sources)
    return {token_key(projection) for projection in sources if projection is not None}


def _from_object(
    key: ObjectKey,
    items: Sequence[core_v1.KeyToPath],
    optional: bool | None,
    sources: Sources,
    *,
    mode: int,
) -> Payload:
    data: Mapping[str, bytes] | None = sources.data(key)
    if data is None:
        if optional:
            return {}
        raise VolumeError(f'{key.kind.lower()} "{key.name}" not found')
    if not items:
        return {name: FileEntry(content=content, mode=mode) for name, content in data.items()}
    payload: Payload = {}
    for item in items:
        if item.key not in data:
            if optional:
                continue
            raise VolumeError(f"references non-existent {_kind_word(key.kind)} key: {item.key}")
        item_mode = mode if item.mode is None else item.mode
        payload[_checked(item.path)] = FileEntry(content=data[item.key], mode=item_mode)
    return payload


def _kind_word(kind: str) -> str:
    return "config" if kind == "ConfigMap" else "secret"


def _from_fields(
    pod: core_v1.Pod, items: Sequence[core_v1.DownwardAPIVolumeFile], facts: PodFacts, *, mode: int
) -> Payload:
    payload: Payload = {}
    for item in items:
        try:
            if item.field_ref is not None:
                text = field_value(pod, item.field_ref.field_path, facts)
            elif item.resource_field_ref is not None:
                text = resource_value(pod, item.resource_field_ref, facts)
            else:
                continue
        except FieldPathError as err:
            raise VolumeError(str(err)) from err
        item_mode = mode if item.mode is None else item.mode
        payload[_checked(item.path)] = FileEntry(content=text.encode(), mode=item_mode)
    return payload


def _checked(path: str) -> str:
    """The API server validates paths; a file is still never written outside its volume."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0].startswith(".."):
        raise VolumeError(f"invalid path {path}: must be relative and must not contain '..'")
    return str(pure)


def pod_sources(pod: core_v1.Pod) -> set[ObjectKey]:
    """Everything the pod's volumes refer to."""
    found: set[ObjectKey] = set()
    for volume in names.pod_spec(pod).volumes:
        found |= referenced_objects(volume)
    return found
