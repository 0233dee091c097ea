"""Pods: the whole of a new one, and what may change in an old one."""

from __future__ import annotations

import json
from typing import Any, Final

from podling.api import names
from podling.api.validation.container import check_containers
from podling.api.validation.faults import (
    Faults,
    Object,
    check_choice,
    check_text,
    forbidden,
    invalid,
    required,
    same,
    unsupported,
)
from podling.api.validation.meta import check_metadata, check_metadata_update
from podling.api.validation.pod_resize import check_resize
from podling.api.validation.resources import check_amounts, check_requirements
from podling.api.validation.scheduling import check_scheduling, check_tolerations
from podling.api.validation.security import check_pod_security
from podling.api.validation.volume import check_volumes

_RESTART_POLICIES: Final = ("Always", "OnFailure", "Never")
_DNS_POLICIES: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_MAX_SECONDS: Final = 2**31 - 1
_MIRROR: Final = "kubernetes.io/config.mirror"

_MAX_NAMESERVERS: Final = 3
_MAX_SEARCHES: Final = 32
_MAX_SEARCH_CHARS: Final = 2048

_MAY_CHANGE: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod(obj: Object, faults: Faults) -> None:
    metadata, spec = obj.get("metadata", {}), obj.get("spec") or {}
    check_metadata(metadata, names.check_subdomain, faults, namespaced=True)
    _check_mirror(metadata, spec, faults)
    check_pod_spec(spec, "spec", faults)


def check_pod_spec(spec: Object, path: str, faults: Faults) -> None:
    """Check a pod's spec; `path` is where it stands, for kinds that hold one in a template."""
    volumes = check_volumes(spec.get("volumes", []), f"{path}.volumes", faults)
    check_containers(spec, volumes, path, faults)
    check_choice(f"{path}.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES, faults)
    check_choice(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICIES, faults)
    check_scheduling(spec, path, faults)
    check_pod_security(spec, path, faults)
    _check_dns(spec, f"{path}.dnsConfig", faults)
    _check_names(spec, path, faults)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _MAX_SECONDS:
        faults.append(invalid(f"{path}.activeDeadlineSeconds", deadline, names.in_range(1, _MAX_SECONDS)))
    if spec.get("hostNetwork"):
        _check_host_network(spec, path, faults)
    for index, alias in enumerate(spec.get("hostAliases", ())):
        where, address = f"{path}.hostAliases[{index}]", alias.get("ip", "")
        check_text(f"{where}.ip", address, names.check_ip(address), faults)
        for hostname in alias.get("hostnames", ()):
            check_text(f"{where}.hostnames", hostname, names.check_subdomain(hostname), faults)
    if spec.get("preemptionPolicy", "Never") not in ("Never", "PreemptLowerPriority"):
        choices = ("Never", "PreemptLowerPriority")
        faults.append(unsupported(f"{path}.preemptionPolicy", spec["preemptionPolicy"], choices))
    check_amounts(spec.get("overhead", {}), f"{path}.overhead", faults)
    if spec.get("resources"):
        check_requirements(spec["resources"], f"{path}.resources", faults)


def _check_mirror(metadata: Object, spec: Object, faults: Faults) -> None:
    if _MIRROR in metadata.get("annotations", {}) and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        faults.append(invalid(f"metadata.annotations[{_MIRROR}]", metadata["annotations"][_MIRROR], detail))


def _check_names(spec: Object, path: str, faults: Faults) -> None:
    for key, check in (
        ("hostname", names.check_label),
        ("subdomain", names.check_label),
        ("serviceAccountName", names.check_subdomain),
        ("nodeName", names.check_subdomain),
        ("priorityClassName", names.check_subdomain),
        ("runtimeClassName", names.check_subdomain),
    ):
        value = spec.get(key)
        if value:
            check_text(f"{path}.{key}", value, check(value), faults)
    if "schedulerName" in spec:
        scheduler = spec["schedulerName"]
        check_text(f"{path}.schedulerName", scheduler, names.check_qualified_name(scheduler), faults)
    for index, gate in enumerate(spec.get("readinessGates", ())):
        kind = gate.get("conditionType", "")
        where = f"{path}.readinessGates[{index}].conditionType"
        check_text(where, kind, names.check_qualified_name(kind), faults)
    if spec.get("os") and spec["os"].get("name") not in ("linux", "windows"):
        faults.append(unsupported(f"{path}.os.name", spec["os"].get("name", ""), ("linux", "windows")))
    if not (spec.get("os") or {}).get("name"):
        for key in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(key, ())):
                if (container.get("lifecycle") or {}).get("stopSignal"):
                    where = f"{path}.{key}[{index}].lifecycle.stopSignal"
                    faults.append(forbidden(where, "may not be set when `spec.os.name` is empty"))


def _check_host_network(spec: Object, path: str, faults: Faults) -> None:
    for index, container in enumerate(spec.get("containers") or ()):
        for port_index, port in enumerate(container.get("ports", ())):
            where = f"{path}.containers[{index}].ports[{port_index}].containerPort"
            if port.get("hostPort") != port.get("containerPort"):
                detail = "must match `hostPort` when `hostNetwork` is true"
                faults.append(invalid(where, port.get("containerPort"), detail))


def _check_dns(spec: Object, path: str, faults: Faults) -> None:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if not config:
            faults.append(required(path, "must provide `dnsConfig` when `dnsPolicy` is None"))
            return
        if not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            faults.append(required(f"{path}.nameservers", detail))
            return
    if not config:
        return
    servers, searches = config.get("nameservers", []), config.get("searches", [])
    if len(servers) > _MAX_NAMESERVERS:
        detail = f"must not have more than {_MAX_NAMESERVERS} nameservers"
        faults.append(invalid(f"{path}.nameservers", servers, detail))
    for index, server in enumerate(servers):
        check_text(f"{path}.nameservers[{index}]", server, names.check_ip(server), faults)
    if len(searches) > _MAX_SEARCHES:
        detail = f"must not have more than {_MAX_SEARCHES} search paths"
        faults.append(invalid(f"{path}.searches", searches, detail))
    if len(" ".join(searches)) > _MAX_SEARCH_CHARS:
        detail = (
            f"must not have more than {_MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        )
        faults.append(invalid(f"{path}.searches", searches, detail))
    for index, search in enumerate(searches):
        domain = search if search == "." else search.removesuffix(".")
        if domain != ".":
            check_text(f"{path}.searches[{index}]", search, names.check_subdomain(domain), faults)
    for index, option in enumerate(config.get("options", ())):
        if not option.get("name"):
            faults.append(required(f"{path}.options[{index}]", "must not be empty"))


# Updates


def check_pod_update(new: Object, old: Object, subresource: str, faults: Faults) -> None:
    """Check an update; `subresource` is empty for the pod itself, else what is being written."""
    check_metadata_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    _check_mirror_update(new.get("metadata", {}), old.get("metadata", {}), faults)
    after, before = new.get("spec") or {}, old.get("spec") or {}
    match subresource:
        case "status":
            _check_status_update(new, old, faults)
        case "binding":
            _check_binding(after, before, faults)
        case "ephemeralcontainers" | "resize" if _MIRROR in (
            old.get("metadata", {}).get("annotations") or {}
        ):
            what = "support ephemeral containers" if subresource != "resize" else "be resized"
            faults.append(
                forbidden("", f"static pods {'do not' if subresource != 'resize' else 'cannot'} {what}")
            )
        case "ephemeralcontainers":
            volumes = check_volumes(after.get("volumes", []), "spec.volumes", faults)
            check_containers(after, volumes, "spec", faults)
            _check_ephemeral_update(after, before, faults)
        case "resize":
            check_pod_spec(after, "spec", faults)
            check_resize(new, old, faults)
        case _:
            _check_spec_update(after, before, faults)


def _check_ephemeral_update(new: Object, old: Object, faults: Faults) -> None:
    """They come, and stay as they came (Kubernetes documentation, "Ephemeral Containers")."""
    path = "spec.ephemeralContainers"
    after = {container.get("name"): container for container in new.get("ephemeralContainers") or ()}
    for container in old.get("ephemeralContainers") or ():
        name = container.get("name")
        if name not in after:
            faults.append(forbidden(path, f'existing ephemeral containers "{name}" may not be removed\n'))
        elif not same(after[name], container):
            faults.append(forbidden(path, f'existing ephemeral containers "{name}" may not be changed\n'))


def _check_mirror_update(new: Object, old: Object, faults: Faults) -> None:
    after, before = (metadata.get("annotations") or {} for metadata in (new, old))
    if after.get(_MIRROR) == before.get(_MIRROR):
        return
    what = "remove or update" if _MIRROR in before else "add"
    faults.append(forbidden(f"metadata.annotations[{_MIRROR}]", f"may not {what} mirror pod annotation"))


def _check_binding(new: Object, old: Object, faults: Faults) -> None:
    if not same({**new, "nodeName": None}, {**old, "nodeName": None}):
        faults.append(forbidden("spec", "a binding may only set spec.nodeName"))


def _check_status_update(new: Object, old: Object, faults: Faults) -> None:
    """Refuse to bring an ended container back to life where the pod may not restart it."""
    spec = old.get("spec") or {}
    policy = spec.get("restartPolicy", "Always")
    restartable = {
        c["name"]
        for c in (*spec.get("containers", ()), *spec.get("initContainers", ()))
        if c.get("restartPolicy", "Never") != "Never" or c.get("restartPolicyRules")
    }
    if policy == "Always":
        return
    after, before = new.get("status") or {}, old.get("status") or {}
    for key in ("containerStatuses", "initContainerStatuses"):
        states = {s["name"]: s.get("state") or {} for s in after.get(key, ())}
        for index, status in enumerate(before.get(key, ())):
            ended = (status.get("state") or {}).get("terminated")
            if not ended or status["name"] in restartable:
                continue
            if ended.get("exitCode") and policy == "OnFailure":
                continue
            if status["name"] in states and not states[status["name"]].get("terminated"):
                detail = "may not be transitioned to non-terminated state"
                faults.append(forbidden(f"status.{key}[{index}].state", detail))


def _check_spec_update(new: Object, old: Object, faults: Faults) -> None:
    if same(new, old):
        return
    munged = dict(new)
    for key in ("containers", "initContainers"):
        after, before = new.get(key) or [], old.get(key) or []
        if len(after) != len(before):
            faults.append(forbidden(f"spec.{key}", "pod updates may not add or remove containers"))
            return
        for index, container in enumerate(after):
            image, where = container.get("image", ""), f"spec.{key}[{index}].image"
            if not image:
                faults.append(required(where))
            elif image != image.strip():
                faults.append(invalid(where, image, "must not have leading or trailing whitespace"))
        munged[key] = [{**a, "image": b.get("image")} for a, b in zip(after, before, strict=True)]
    if not _check_deadline(new, old, faults):
        return
    munged["activeDeadlineSeconds"] = old.get("activeDeadlineSeconds")
    grace, was = new.get("terminationGracePeriodSeconds"), old.get("terminationGracePeriodSeconds")
    if was is not None and was < 0 and grace == 1:
        munged["terminationGracePeriodSeconds"] = was
    _check_gates(new, old, faults)
    munged["schedulingGates"] = old.get("schedulingGates")
    _check_added_tolerations(new.get("tolerations") or [], old.get("tolerations") or [], faults)
    munged["tolerations"] = old.get("tolerations")
    if not same(munged, old):
        faults.append(forbidden("spec", f"{_MAY_CHANGE}\n{_difference(old, munged, 'spec')}"))


def _check_deadline(new: Object, old: Object, faults: Faults) -> bool:
    path = "spec.activeDeadlineSeconds"
    deadline, was = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if deadline is None:
        if was is not None:
            faults.append(invalid(path, None, "must not update from a positive integer to nil value"))
        return True
    if not 0 <= deadline <= _MAX_SECONDS:
        faults.append(invalid(path, deadline, names.in_range(0, _MAX_SECONDS)))
        return False
    if was is not None and was < deadline:
        faults.append(invalid(path, deadline, "must be less than or equal to previous value"))
        return False
    return True


def _check_gates(new: Object, old: Object, faults: Faults) -> None:
    known = [gate.get("name") for gate in old.get("schedulingGates") or ()]
    for index, gate in enumerate(new.get("schedulingGates") or ()):
        if gate.get("name") not in known:
            detail = f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'"
            faults.append(forbidden(f"spec.schedulingGates[{index}]", detail))


def _check_added_tolerations(new: list[Object], old: list[Object], faults: Faults) -> None:
    def core(toleration: Object) -> dict[str, Any]:
        return {**toleration, "tolerationSeconds": None}

    if not all(any(same(core(t), core(o)) for t in new) for o in old):
        detail = "existing toleration can not be modified except its tolerationSeconds"
        faults.append(forbidden("spec.tolerations", detail))
    elif not same(new, old):
        check_tolerations(new, "spec.tolerations", faults)


def _difference(old: Any, new: Any, path: str) -> str:
    """Return what changed, a line for each value before and after.

    Differs from upstream: there it is a diff of Go structs, which names the same fields.
    """
    if same(old, new):
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return "".join(_difference(old.get(k), new.get(k), f"{path}.{k}") for k in keys)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return "".join(_difference(a, b, f"{path}[{i}]") for i, (a, b) in pairs)
    lines = [(sign, value) for sign, value in (("-", old), ("+", new)) if value is not None]
    return "".join(f"{sign} {path}: {json.dumps(value, ensure_ascii=False)}\n" for sign, value in lines)
