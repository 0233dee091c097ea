"""The downward API: values of `fieldRef` and `resourceFieldRef`, for environment and files.

Kubernetes documentation, "Downward API", "Available fields". Pure: what a pod cannot know about
itself (its addresses, the node's allocatable resources) is handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from podling.api import core_v1
from podling.api.quantity import parse_quantity, to_bytes, to_milli
from podling.kubelet import names

_SUBSCRIPT = re.compile(r"^(metadata\.(?:labels|annotations))\['(.*)'\]$")


class FieldPathError(ValueError):
    """A field or resource that the downward API does not offer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What is only known on the node."""

    host_ip: str = ""
    pod_ips: Sequence[str] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    """The node's allocatable resources: the limit of a container that sets none."""


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as one `key="value"` a line, sorted, the value quoted as Go's %q does."""
    return "\n".join(f"{key}={json.dumps(values[key], ensure_ascii=False)}" for key in sorted(values))


def field_value(pod: core_v1.Pod, path: str, facts: PodFacts) -> str:
    """The text of a pod field. Raises FieldPathError."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        source = pod.metadata.labels if subscript[1] == "metadata.labels" else pod.metadata.annotations
        return source.get(subscript[2], "")
    spec = names.pod_spec(pod)
    match path:
        case "metadata.name":
            return pod.metadata.name or ""
        case "metadata.namespace":
            return names.pod_namespace(pod)
        case "metadata.uid":
            return pod.metadata.uid or ""
        case "metadata.labels":
            return format_map(pod.metadata.labels)
        case "metadata.annotations":
            return format_map(pod.metadata.annotations)
        case "spec.nodeName":
            return spec.node_name or ""
        case "spec.serviceAccountName":
            return spec.service_account_name or ""
        case "status.hostIP" | "status.hostIPs":
            return facts.host_ip
        case "status.podIP":
            return facts.pod_ips[0] if facts.pod_ips else ""
        case "status.podIPs":
            return ",".join(facts.pod_ips)
    raise FieldPathError(f"unsupported fieldPath: {path}")


def resource_value(
    pod: core_v1.Pod,
    selector: core_v1.ResourceFieldSelector,
    facts: PodFacts,
    *,
    own: names.AnyContainer | None = None,
) -> str:
    """A container's limit or request divided by the divisor, rounded up. Raises FieldPathError.

    `own` is the container the value is for when the selector names none (environment variables).
    """
    container = _find_container(pod, selector.container_name) if selector.container_name else own
    if container is None:
        raise FieldPathError(f"container {selector.container_name} not found")
    kind, _, resource = selector.resource.partition(".")
    resources = container.resources or core_v1.ResourceRequirements()
    if kind == "limits":
        text = resources.limits.get(resource) or facts.allocatable.get(resource, "0")
    elif kind == "requests":
        text = resources.requests.get(resource, "0")
    else:
        raise FieldPathError(f"unsupported container resource : {selector.resource}")
    return _divide(resource, text, selector.divisor)


def _divide(resource: str, text: str, divisor: str | None) -> str:
    if not divisor or parse_quantity(divisor) == 0:
        divisor = "1"
    to_int = to_milli if resource == "cpu" else to_bytes
    return str(-(-to_int(text) // to_int(divisor)))


def _find_container(pod: core_v1.Pod, name: str) -> core_v1.Container | None:
    spec = names.pod_spec(pod)
    return next((c for c in [*spec.init_containers, *spec.containers] if c.name == name), None)
