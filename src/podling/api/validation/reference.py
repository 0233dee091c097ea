"""References from a pod to fields, resources, config map and secret keys."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from podling.api import names
from podling.api.validation.faults import Faults, Object, check_text, invalid, required, unsupported

_SUBSCRIPTED: Final = re.compile(r"(metadata\.(?:annotations|labels))\['(.*)'\]", re.DOTALL)
_RESOURCES: Final = tuple(
    f"{which}.{name}" for which in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
# What upstream converts without complaint, whether or not the place at hand allows it.
_KNOWN_FIELDS: Final = frozenset((
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.phase", "status.podIP", "status.podIPs",
))  # fmt: skip
_BYTES_DIVISORS: Final = (
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
)  # fmt: skip


def check_field_ref(ref: Object, path: str, allowed: Collection[str], faults: Faults) -> None:
    """Check a reference to a field of the pod; `allowed` are those this place can take."""
    field_path = ref.get("fieldPath", "")
    if not ref.get("apiVersion"):
        faults.append(required(f"{path}.apiVersion"))
        return
    if not field_path:
        faults.append(required(f"{path}.fieldPath"))
        return
    subscripted = _SUBSCRIPTED.fullmatch(field_path)
    if subscripted:
        key = subscripted[2].lower() if subscripted[1].endswith("annotations") else subscripted[2]
        check_text(path, subscripted[2], names.check_qualified_name(key), faults)
    elif field_path not in _KNOWN_FIELDS:
        detail = f"error converting fieldPath: field label not supported: {field_path}"
        faults.append(invalid(f"{path}.fieldPath", field_path, detail))
    elif field_path not in allowed:
        faults.append(unsupported(f"{path}.fieldPath", field_path, sorted(allowed)))


def check_resource_ref(ref: Object, path: str, faults: Faults, *, in_volume: bool) -> None:
    """Check a reference to a request or limit of a container."""
    resource = ref.get("resource", "")
    if in_volume and not ref.get("containerName"):
        faults.append(required(f"{path}.containerName"))
    elif not resource:
        faults.append(required(f"{path}.resource"))
    elif resource not in _RESOURCES and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        faults.append(unsupported(f"{path}.resource", resource, _RESOURCES))
    divisor = ref.get("divisor", "0")
    if divisor == "0":
        return
    if resource.endswith(".cpu"):
        if divisor not in ("1m", "1"):
            detail = "only divisor's values 1m and 1 are supported with the cpu resource"
            faults.append(invalid(f"{path}.divisor", resource, detail))
    elif divisor not in _BYTES_DIVISORS:
        name = "memory" if resource.endswith(".memory") else "local ephemeral storage"
        detail = f"only divisor's values {', '.join(_BYTES_DIVISORS)} are supported with the {name} resource"
        faults.append(invalid(f"{path}.divisor", resource, detail))


def check_key_ref(ref: Object, path: str, faults: Faults) -> None:
    """Check a reference to a key of a config map or secret."""
    name, key = ref.get("name", ""), ref.get("key", "")
    if not name:
        faults.append(required(f"{path}.name"))
    else:
        check_text(f"{path}.name", name, names.check_subdomain(name), faults)
    if not key:
        faults.append(required(f"{path}.key"))
    else:
        check_text(f"{path}.key", key, names.check_config_key(key), faults)
