"""Containers: names, images, ports, environment, mounts, probes, resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from podling.api import names
from podling.api.validation.faults import (
    Faults,
    Object,
    check_choice,
    check_text,
    duplicate,
    forbidden,
    invalid,
    not_found,
    required,
    unsupported,
)
from podling.api.validation.probe import check_lifecycle, check_probes
from podling.api.validation.reference import check_field_ref, check_key_ref, check_resource_ref
from podling.api.validation.resources import check_requirements
from podling.api.validation.security import check_container_security
from podling.api.validation.volume import check_descending_path

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_MESSAGE_POLICIES: Final = ("File", "FallbackToLogsOnError")
_RECURSIVE: Final = ("Disabled", "Enabled", "IfPossible")
_PROPAGATIONS: Final = ("Bidirectional", "HostToContainer", "None")
_ENV_SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_ENV_FIELDS: Final = frozenset((
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
))  # fmt: skip
_RESTART_POLICIES: Final = ("Always", "Never", "OnFailure")
# What only a container that keeps running can have.
_NOT_FOR_INIT: Final = ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
_NOT_FOR_EPHEMERAL: Final = (*_NOT_FOR_INIT, "ports", "resources")


def check_containers(spec: Object, volumes: Mapping[str, Object], path: str, faults: Faults) -> None:
    """Check containers, init containers and ephemeral containers of a pod's spec."""
    grace_s = spec.get("terminationGracePeriodSeconds")
    containers, init = spec.get("containers") or (), spec.get("initContainers", ())
    if not containers:
        faults.append(required(f"{path}.containers"))
    taken: set[str] = set()
    for index, container in enumerate(containers):
        where = f"{path}.containers[{index}]"
        _check_name(container, where, taken, faults)
        _check_common(container, volumes, where, faults)
        _check_running(container, where, grace_s, faults)
        _check_restart_policy(container, where, faults)
    _check_host_ports(containers, f"{path}.containers", faults)
    for index, container in enumerate(init):
        where = f"{path}.initContainers[{index}]"
        _check_name(container, where, taken, faults)
        _check_common(container, volumes, where, faults)
        _check_restart_policy(container, where, faults)
        if container.get("restartPolicy") == "Always":
            _check_running(container, where, grace_s, faults)
        else:
            for field in _NOT_FOR_INIT:
                if field in container:
                    detail = "may not be set for init containers without restartPolicy=Always"
                    faults.append(forbidden(f"{where}.{field}", detail))
    _check_host_ports(init, f"{path}.initContainers", faults)
    for index, container in enumerate(spec.get("ephemeralContainers", ())):
        _check_ephemeral(container, volumes, f"{path}.ephemeralContainers[{index}]", taken, faults)


def _check_name(container: Object, path: str, taken: set[str], faults: Faults) -> None:
    name = container.get("name", "")
    if not name:
        faults.append(required(f"{path}.name"))
        return
    check_text(f"{path}.name", name, names.check_label(name), faults)
    if name in taken:
        faults.append(duplicate(f"{path}.name", name))
    taken.add(name)


def _check_common(container: Object, volumes: Mapping[str, Object], path: str, faults: Faults) -> None:
    image = container.get("image", "")
    if not image:
        faults.append(required(f"{path}.image"))
    elif image != image.strip():
        faults.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policy = container.get("terminationMessagePolicy")
    if policy not in _MESSAGE_POLICIES:
        detail = "must be 'File' or 'FallbackToLogsOnError'"
        where = f"{path}.terminationMessagePolicy"
        faults.append(invalid(where, policy, detail) if policy else required(where, detail))
    check_choice(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), _PULL_POLICIES, faults)
    if "ports" in container:
        _check_ports(container["ports"], f"{path}.ports", faults)
    if "env" in container:
        _check_env(container["env"], f"{path}.env", faults)
    if "envFrom" in container:
        _check_env_from(container["envFrom"], f"{path}.envFrom", faults)
    if "volumeMounts" in container:
        _check_mounts(container, volumes, f"{path}.volumeMounts", faults)
    if container.get("resources"):
        check_requirements(container["resources"], f"{path}.resources", faults)
    if container.get("securityContext"):
        check_container_security(container["securityContext"], f"{path}.securityContext", faults)


def _check_running(container: Object, path: str, grace_s: int | None, faults: Faults) -> None:
    if "lifecycle" in container:
        check_lifecycle(container["lifecycle"], f"{path}.lifecycle", grace_s, faults)
    check_probes(container, path, grace_s, faults)


def _check_restart_policy(container: Object, path: str, faults: Faults) -> None:
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules", ())
    if policy is not None and policy not in _RESTART_POLICIES:
        faults.append(unsupported(f"{path}.restartPolicy", policy, _RESTART_POLICIES))
    if rules and policy is None:
        detail = "must specify restartPolicy when restart rules are used"
        faults.append(required(f"{path}.restartPolicy", detail))


def _check_ephemeral(
    container: Object, volumes: Mapping[str, Object], path: str, taken: set[str], faults: Faults
) -> None:
    others = set(taken)
    _check_name(container, path, taken, faults)
    _check_common(container, volumes, path, faults)
    for field in _NOT_FOR_EPHEMERAL:
        if container.get(field):
            detail = "cannot be set for an Ephemeral Container"
            faults.append(forbidden(f"{path}.{field}", detail))
    target = container.get("targetContainerName")
    if target and target not in others:
        faults.append(not_found(f"{path}.targetContainerName", target))


def _check_ports(ports: list[Object], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        name = port.get("name")
        if name:
            problems = names.check_port_name(name)
            check_text(f"{where}.name", name, problems, faults)
            if not problems and name in taken:
                faults.append(duplicate(f"{where}.name", name))
            taken.add(name)
        number = port.get("containerPort", 0)
        if not number:
            faults.append(required(f"{where}.containerPort"))
        else:
            check_text(f"{where}.containerPort", number, names.check_port_number(number), faults)
        host_port = port.get("hostPort")
        if host_port:
            check_text(f"{where}.hostPort", host_port, names.check_port_number(host_port), faults)
        check_choice(f"{where}.protocol", port.get("protocol"), PROTOCOLS, faults)


def _check_host_ports(containers: list[Object] | tuple[()], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for port_index, port in enumerate(container.get("ports", ())):
            if not port.get("hostPort"):
                continue
            this = f"{port.get('protocol')}/{port.get('hostIP', '')}/{port['hostPort']}"
            if this in taken:
                faults.append(duplicate(f"{path}[{index}].ports[{port_index}].hostPort", this))
            taken.add(this)


def _check_env(env: list[Object], path: str, faults: Faults) -> None:
    for index, variable in enumerate(env):
        name = variable.get("name", "")
        if not name:
            faults.append(required(f"{path}[{index}].name"))
        else:
            check_text(f"{path}[{index}].name", name, names.check_env_name(name), faults)
        if "valueFrom" in variable:
            _check_value_from(variable, f"{path}[{index}].valueFrom", faults)


def _check_value_from(variable: Object, path: str, faults: Faults) -> None:
    source = variable["valueFrom"]
    given = [name for name in _ENV_SOURCES if name in source]
    if "fieldRef" in source:
        check_field_ref(source["fieldRef"], f"{path}.fieldRef", _ENV_FIELDS, faults)
    if "resourceFieldRef" in source:
        check_resource_ref(source["resourceFieldRef"], f"{path}.resourceFieldRef", faults, in_volume=False)
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source:
            check_key_ref(source[name], f"{path}.{name}", faults)
    if not given:
        detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        faults.append(invalid(path, "", detail))
    elif variable.get("value"):
        faults.append(invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(given) > 1:
        faults.append(invalid(path, "", "may not have more than one field specified at a time"))


def _check_env_from(sources: list[Object], path: str, faults: Faults) -> None:
    for index, source in enumerate(sources):
        prefix = source.get("prefix")
        if prefix:
            check_text(f"{path}[{index}].prefix", prefix, names.check_env_name(prefix), faults)
        given = [name for name in ("configMapRef", "secretRef") if name in source]
        for kind in given:
            name, where = source[kind].get("name", ""), f"{path}[{index}].{kind}.name"
            if not name:
                faults.append(required(where))
            else:
                check_text(where, name, names.check_subdomain(name), faults)
        if not given:
            faults.append(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(given) > 1:
            faults.append(invalid(path, "", "may not have more than one field specified at a time"))


def _check_mounts(container: Object, volumes: Mapping[str, Object], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    privileged = bool((container.get("securityContext") or {}).get("privileged"))
    for index, mount in enumerate(container["volumeMounts"]):
        where = f"{path}[{index}]"
        name, target = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            faults.append(required(f"{where}.name"))
        if name not in volumes:
            faults.append(not_found(f"{where}.name", name))
        if not target:
            faults.append(required(f"{where}.mountPath"))
        if target in taken:
            faults.append(invalid(f"{where}.mountPath", target, "must be unique"))
        taken.add(target)
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                check_descending_path(mount[key], f"{where}.{key}", faults)
        if mount.get("subPath") and mount.get("subPathExpr"):
            detail = "subPathExpr and subPath are mutually exclusive"
            faults.append(invalid(f"{where}.subPathExpr", mount["subPathExpr"], detail))
        _check_propagation(mount, privileged, f"{where}.mountPropagation", faults)
        _check_recursive(mount, f"{where}.recursiveReadOnly", faults)


def _check_recursive(mount: Object, path: str, faults: Faults) -> None:
    wanted = mount.get("recursiveReadOnly", "Disabled")
    if wanted not in _RECURSIVE:
        faults.append(unsupported(path, wanted, _RECURSIVE))
    elif wanted != "Disabled":
        if not mount.get("readOnly"):
            faults.append(forbidden(path, "may only be specified when readOnly is true"))
        if mount.get("mountPropagation", "None") != "None":
            detail = "may only be specified when mountPropagation is None or not specified"
            faults.append(forbidden(path, detail))


def _check_propagation(mount: Object, privileged: bool, path: str, faults: Faults) -> None:
    propagation = mount.get("mountPropagation")
    if propagation is None:
        return
    if propagation not in _PROPAGATIONS:
        faults.append(unsupported(path, propagation, _PROPAGATIONS))
    elif propagation == "Bidirectional" and not privileged:
        faults.append(
            forbidden(path, "Bidirectional mount propagation is available only to privileged containers")
        )
