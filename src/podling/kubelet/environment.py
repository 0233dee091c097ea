"""A container's environment: envFrom, env, valueFrom and `$(VAR)` expansion.

Two steps: `referenced_objects` says which config maps and secrets are needed, `make_environment` is pure
over them. Order and precedence are upstream's (`kubelet_pods.go`, "makeEnvironmentVariables"): service
variables, then envFrom in order, then env in order; a later one wins.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from podling.api import core_v1
from podling.kubelet import names
from podling.kubelet.expansion import expand
from podling.kubelet.field_paths import FieldPathError, PodFacts, field_value, resource_value
from podling.kubelet.tokens import TokenKey


class ConfigError(Exception):
    """The container cannot be configured: becomes the reason CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """A config map or secret in the pod's namespace."""

    kind: str
    """`ConfigMap` or `Secret`."""
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Objects fetched for a pod; None marks one the API does not have."""

    config_maps: Mapping[str, core_v1.ConfigMap | None] = field(default_factory=dict)
    secrets: Mapping[str, core_v1.Secret | None] = field(default_factory=dict)
    tokens: Mapping[TokenKey, str] = field(default_factory=dict)
    """The pod's service account tokens that its volumes ask for."""

    def data(self, key: ObjectKey) -> dict[str, bytes] | None:
        """All values as bytes, or None when the object does not exist."""
        if key.kind == "ConfigMap":
            config_map = self.config_maps.get(key.name)
            return None if config_map is None else config_map_data(config_map)
        secret = self.secrets.get(key.name)
        return None if secret is None else secret_data(secret)

    def variables(self, key: ObjectKey) -> dict[str, bytes] | None:
        """What may become a variable of `data`: not a config map's binaryData, as upstream has it."""
        if key.kind != "ConfigMap":
            return self.data(key)
        config_map = self.config_maps.get(key.name)
        return None if config_map is None else {k: v.encode() for k, v in config_map.data.items()}


def config_map_data(config_map: core_v1.ConfigMap) -> dict[str, bytes]:
    data = {key: value.encode() for key, value in config_map.data.items()}
    return data | {key: base64.b64decode(value) for key, value in config_map.binary_data.items()}


def secret_data(secret: core_v1.Secret) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in secret.data.items()}


def referenced_objects(container: names.AnyContainer) -> set[ObjectKey]:
    """What the container's environment is made from."""
    found: set[ObjectKey] = set()
    for source in container.env_from:
        if source.config_map_ref and source.config_map_ref.name:
            found.add(ObjectKey("ConfigMap", source.config_map_ref.name))
        if source.secret_ref and source.secret_ref.name:
            found.add(ObjectKey("Secret", source.secret_ref.name))
    for variable in container.env:
        if variable.value_from is None:
            continue
        if (ref := variable.value_from.config_map_key_ref) and ref.name:
            found.add(ObjectKey("ConfigMap", ref.name))
        if (secret_ref := variable.value_from.secret_key_ref) and secret_ref.name:
            found.add(ObjectKey("Secret", secret_ref.name))
    return found


def make_environment(
    pod: core_v1.Pod,
    container: names.AnyContainer,
    *,
    sources: Sources,
    facts: PodFacts,
    service_env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The variables in the order they are given to the process. Raises ConfigError."""
    result: dict[str, str] = {}
    for source in container.env_from:
        result.update(_env_from(pod, source, sources))
    services = service_env or {}
    for variable in container.env:
        # `tmpEnv` upstream: only what came before is visible to an expansion.
        value = _env_value(pod, container, variable, sources, facts, known={**services, **result})
        if value is not None:
            result[variable.name] = value
    return result | {name: value for name, value in services.items() if name not in result}


def _env_from(pod: core_v1.Pod, source: core_v1.EnvFromSource, sources: Sources) -> Iterable[tuple[str, str]]:
    ref = source.config_map_ref or source.secret_ref
    if ref is None:
        return []
    key = ObjectKey("ConfigMap" if source.config_map_ref else "Secret", ref.name or "")
    data = sources.variables(key)
    if data is None:
        if ref.optional:
            return []
        raise ConfigError(_not_found(key))
    prefix = source.prefix or ""
    return [(prefix + name, _text(value)) for name, value in data.items() if "=" not in name]


def _env_value(
    pod: core_v1.Pod,
    container: names.AnyContainer,
    variable: core_v1.EnvVar,
    sources: Sources,
    facts: PodFacts,
    *,
    known: Mapping[str, str],
) -> str | None:
    """The value, or None for an optional reference to nothing: the variable is then not set at all."""
    origin = variable.value_from
    if origin is None:
        return expand(variable.value or "", known)
    if (ref := origin.config_map_key_ref) is not None:
        return _key_value(pod, ObjectKey("ConfigMap", ref.name or ""), ref.key, ref.optional, sources)
    if (secret := origin.secret_key_ref) is not None:
        return _key_value(pod, ObjectKey("Secret", secret.name or ""), secret.key, secret.optional, sources)
    try:
        if origin.field_ref is not None:
            return field_value(pod, origin.field_ref.field_path, facts)
        if origin.resource_field_ref is not None:
            return resource_value(pod, origin.resource_field_ref, facts, own=container)
    except FieldPathError as err:
        raise ConfigError(str(err)) from err
    raise ConfigError(f"environment variable {variable.name}: this source of a value is not supported")


def _key_value(
    pod: core_v1.Pod, key: ObjectKey, item: str, optional: bool | None, sources: Sources
) -> str | None:
    data = sources.variables(key)
    if data is not None and item in data:
        return _text(data[item])
    if optional:
        return None
    if data is None:
        raise ConfigError(_not_found(key))
    raise ConfigError(f"couldn't find key {item} in {key.kind} {names.pod_namespace(pod)}/{key.name}")


def _not_found(key: ObjectKey) -> str:
    return f'{key.kind.lower()} "{key.name}" not found'


def _text(value: bytes) -> str:
    # The environment of a process is bytes: what is not UTF-8 goes through unchanged.
    return value.decode("utf-8", "surrogateescape")
