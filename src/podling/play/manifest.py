"""A manifest file as pods to run: decoded strictly, defaulted and validated as an API server would.

All that is wrong is told at once, as is all that cannot work without a cluster: what is left out in silence
is missed when it is needed. Pure, but for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from podling.api import core_v1
from podling.api.decoding import DecodeError
from podling.api.defaults import apply_defaults
from podling.api.schema import schema
from podling.api.validation import validate_create
from podling.kubelet.environment import Sources

Object = dict[str, Any]

VERSIONS = {"Pod": "v1", "ConfigMap": "v1", "Secret": "v1", "Deployment": "apps/v1"}
VOLUMES = ("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected")
IGNORED = ("livenessProbe", "readinessProbe", "startupProbe")
"""Told once: without a kubelet nobody asks."""
POD_REFUSED = ("activeDeadlineSeconds", "ephemeralContainers", "resourceClaims", "runtimeClassName")
CONTAINER_REFUSED = ("volumeDevices", "restartPolicyRules")
HOOKS = ("postStart", "preStop")


class ManifestError(Exception):
    """The message names every fault, one a line."""


@dataclass(slots=True)
class Manifest:
    pods: list[core_v1.Pod] = field(default_factory=list)
    deployments: dict[str, int] = field(default_factory=dict)
    """Replicas by name; their pods are in `pods`."""
    sources: Sources = field(default_factory=Sources)
    warnings: list[str] = field(default_factory=list)


def read_manifest(text: str, where: str) -> Manifest:
    """`where` names the file in messages. Raises `ManifestError`."""
    problems: list[str] = []
    objects = [obj for obj in _documents(text, where) if _supported(obj, where, problems)]
    checked = [obj for obj in objects if _check(obj, where, problems)]
    manifest = Manifest()
    config_maps: dict[str, core_v1.ConfigMap | None] = {}
    secrets: dict[str, core_v1.Secret | None] = {}
    for obj in checked:
        name = obj["metadata"]["name"]
        match obj["kind"]:
            case "ConfigMap":
                config_maps[name] = msgspec.convert(obj, core_v1.ConfigMap)
            case "Secret":
                secrets[name] = msgspec.convert(obj, core_v1.Secret)
            case "Pod":
                _take(manifest, obj, where, problems)
            case "Deployment":
                manifest.deployments[name] = obj["spec"].get("replicas", 1)
                for pod in _replicas(obj):
                    _take(manifest, pod, where, problems)
    if problems:
        raise ManifestError("\n".join(dict.fromkeys(problems)))
    names = [pod.metadata.name for pod in manifest.pods]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ManifestError(f"{where}: several pods are named {', '.join(sorted(map(str, twice)))}")
    if not manifest.pods:
        raise ManifestError(f"{where}: nothing to run: no Pod and no Deployment with replicas")
    manifest.sources = Sources(config_maps=config_maps, secrets=secrets)
    manifest.warnings = list(dict.fromkeys(manifest.warnings))
    return manifest


def pod_names(deployment: str, replicas: int) -> list[str]:
    """podman's name for one; numbered for several."""
    return [f"{deployment}-pod"] if replicas == 1 else [f"{deployment}-pod-{n}" for n in range(replicas)]


def _documents(text: str, where: str) -> Iterator[Any]:
    import yaml  # slow to import

    try:
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        # Dates become text again; binary and keys that are no strings have no place in JSON.
        plain: list[Any] = msgspec.json.decode(msgspec.json.encode(documents))
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as err:
        raise ManifestError(f"{where}: error parsing YAML: {err}") from err
    for document in plain:
        if isinstance(document, dict) and document.get("kind") == "List":
            items = document.get("items")
            yield from items if isinstance(items, list) else [None]
        elif document is not None:
            yield document


def _supported(obj: Any, where: str, problems: list[str]) -> bool:
    if not isinstance(obj, dict) or not isinstance(obj.get("kind"), str):
        problems.append(f"{where}: Object 'Kind' is missing")
        return False
    kind, version = obj["kind"], obj.get("apiVersion")
    if kind in VERSIONS and VERSIONS[kind] == version:
        return True
    supported = ", ".join(VERSIONS)
    problems.append(
        f"{where}: {_title(obj)} ({version}): not supported without a cluster, only {supported} are: "
        "use `podling up`"
    )
    return False


def _title(obj: Object) -> str:
    metadata = obj.get("metadata")
    return f"{obj['kind']}/{metadata.get('name', '') if isinstance(metadata, dict) else ''}"


def _check(obj: Object, where: str, problems: list[str]) -> bool:
    """Decode, default and validate in place."""
    kind, title = obj["kind"], f"{where}: {_title(obj)}"
    ref = schema().ref(VERSIONS[kind], kind)
    assert ref is not None  # of the table
    try:
        faults = [str(warning) for warning in schema().decode_strict(ref, obj)]
    except DecodeError as err:
        problems.append(f"{title}: {err}")
        return False
    metadata = obj.setdefault("metadata", {})
    metadata.setdefault("namespace", "default")
    for container in _containers(_pod_spec(obj)):
        # Differs from upstream, for which `latest` means Always: there may be no registry to ask.
        container.setdefault("imagePullPolicy", "IfNotPresent")
    apply_defaults(kind, obj)
    faults += [str(fault) for fault in validate_create(kind, obj)]
    problems += [f"{title}: {fault}" for fault in faults]
    return not faults


def _pod_spec(obj: Object) -> Object:
    spec: Object = obj.get("spec", {})
    return spec.get("template", {}).get("spec", {}) if obj["kind"] == "Deployment" else spec


def _containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec.get("containers", ())]


def _replicas(deployment: Object) -> Iterator[Object]:
    template = deployment["spec"]["template"]
    namespace = deployment["metadata"]["namespace"]
    replicas = deployment["spec"].get("replicas", 1)
    for name in pod_names(deployment["metadata"]["name"], replicas):
        metadata = {**template.get("metadata", {}), "name": name, "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        apply_defaults("Pod", pod)
        yield pod


def _take(manifest: Manifest, obj: Object, where: str, problems: list[str]) -> None:
    spec, title = obj["spec"], f"{where}: {_title(obj)}"
    if refused := sorted(_refused(spec)):
        problems.append(f"{title}: not supported without a cluster: {', '.join(refused)}")
    if ignored := sorted({key for one in _containers(spec) for key in IGNORED if one.get(key)}):
        manifest.warnings.append(f"{title}: {', '.join(ignored)}: ignored, nobody probes without a kubelet")
    manifest.pods.append(msgspec.convert(obj, core_v1.Pod))


def _refused(spec: Object) -> Iterator[str]:
    yield from (f"spec.{key}" for key in POD_REFUSED if spec.get(key))
    if spec.get("hostUsers") is False:
        yield "spec.hostUsers"
    for volume in spec.get("volumes", ()):
        kinds = [key for key in volume if key != "name"]
        yield from (f"spec.volumes[{volume['name']}].{kind}" for kind in kinds if kind not in VOLUMES)
    for place in ("initContainers", "containers"):
        for container in spec.get(place, ()):
            where = f"spec.{place}[{container['name']}]"
            yield from (f"{where}.{key}" for key in CONTAINER_REFUSED if container.get(key))
            lifecycle = container.get("lifecycle") or {}
            yield from (f"{where}.lifecycle.{hook}" for hook in HOOKS if lifecycle.get(hook))
