"""Generate src/podling/api/{meta,core,apps,...}_v1.py from Kubernetes' OpenAPI definitions.

Run by a maintainer when the Kubernetes version we follow moves on:

    pip install kubernetes-validate && python tools/gen_types.py

The definitions come from the `kubernetes-validate` package (Apache-2.0, the upstream swagger as
JSON). The output is committed: 150 MB of schemas are no dependency for a user's machine.
"""

from __future__ import annotations

import importlib.resources
import json
import keyword
import re
import subprocess
from pathlib import Path
from typing import Any

VERSION = "v1.37.0-local"
ROOTS = {
    "io.k8s.api.core.v1": [
        "Binding", "ConfigMap", "Endpoints", "Event", "Namespace", "Node", "PersistentVolume",
        "PersistentVolumeClaim", "Pod", "ReplicationController", "Secret", "Service",
        "ServiceAccount",
    ],
    "io.k8s.api.apps.v1": ["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet"],
    "io.k8s.api.authentication.v1": ["TokenRequest", "TokenReview"],
    "io.k8s.api.authorization.v1": ["SubjectAccessReview"],
    "io.k8s.api.autoscaling.v1": ["Scale"],
    "io.k8s.api.certificates.v1": ["CertificateSigningRequest"],
    "io.k8s.api.coordination.v1": ["Lease"],
    "io.k8s.api.discovery.v1": ["EndpointSlice"],
    "io.k8s.api.networking.v1": ["Ingress", "IngressClass", "NetworkPolicy"],
    "io.k8s.api.rbac.v1": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "io.k8s.api.storage.v1": ["StorageClass"],
    "io.k8s.apimachinery.pkg.apis.meta.v1": ["ObjectMeta", "Status", "DeleteOptions", "ListMeta"],
}  # fmt: skip
MODULES = {
    "io.k8s.apimachinery.pkg.apis.meta.v1": "meta_v1",
    "io.k8s.api.core.v1": "core_v1",
    "io.k8s.api.apps.v1": "apps_v1",
    "io.k8s.api.authentication.v1": "authentication_v1",
    "io.k8s.api.authorization.v1": "authorization_v1",
    "io.k8s.api.autoscaling.v1": "autoscaling_v1",
    "io.k8s.api.certificates.v1": "certificates_v1",
    "io.k8s.api.coordination.v1": "coordination_v1",
    "io.k8s.api.discovery.v1": "discovery_v1",
    "io.k8s.api.networking.v1": "networking_v1",
    "io.k8s.api.rbac.v1": "rbac_v1",
    "io.k8s.api.storage.v1": "storage_v1",
}
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "str",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int | str",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "str",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "str",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "dict[str, Any]",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "dict[str, Any]",
}
OUT = Path(__file__).parent.parent / "src/podling/api"


def load() -> dict[str, Any]:
    root = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / VERSION
    doc: dict[str, Any] = json.loads((root / "_definitions.json").read_text())
    return doc["$defs"]  # type: ignore[no-any-return]


def snake(name: str) -> str:
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name).lower().lstrip("$")
    return name + "_" if keyword.iskeyword(name) else name


def camel(name: str) -> str:
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(w.title() for w in rest)


def split(ref: str) -> tuple[str, str]:
    package, _, name = ref.rpartition(".")
    return package, name


def reachable(defs: dict[str, Any]) -> list[str]:
    seen: list[str] = []

    def visit(ref: str) -> None:
        if ref in seen or ref in SCALARS:
            return
        seen.append(ref)
        for match in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(defs[ref])):
            visit(match)

    for package, names in ROOTS.items():
        for name in names:
            visit(f"{package}.{name}")
    return seen


def pytype(schema: dict[str, Any], module: str) -> str:
    if "$ref" in schema or "allOf" in schema:
        ref = (schema.get("$ref") or schema["allOf"][0]["$ref"]).removeprefix("#/$defs/")
        if ref in SCALARS:
            return SCALARS[ref]
        package, name = split(ref)
        return name if MODULES[package] == module else f"{MODULES[package]}.{name}"
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(k for k in kind if k != "null")
    if kind == "array":
        return f"list[{pytype(schema['items'], module)}]"
    if kind == "object":
        extra = schema.get("additionalProperties")
        return f"dict[str, {pytype(extra, module)}]" if isinstance(extra, dict) else "dict[str, Any]"
    return {"string": "str", "integer": "int", "boolean": "bool", "number": "float"}.get(kind or "", "Any")


def field(name: str, schema: dict[str, Any], *, required: bool, module: str) -> str:
    py, typ = snake(name), pytype(schema, module)
    zero = {"str": '""', "int": "0", "bool": "False", "int | str": "0"}.get(typ)
    if typ.startswith("list["):
        default = "[]"
    elif typ.startswith("dict["):
        default = "{}"
    elif required and zero is not None:
        default = zero
    else:
        default, typ = "None", f"{typ} | None"
    if camel(py) != name:
        default = f'field(default={default}, name="{name}")'
    return f"    {py}: {typ} = {default}"


def render(defs: dict[str, Any], module: str, refs: list[str]) -> str:
    lines = [
        f'"""Kubernetes {VERSION[:5]} `{module}` kinds as types.',
        "",
        "Generated by tools/gen_types.py: do not edit.",
        "",
        "Every field may be absent on the wire: lists and maps default to empty, the rest to None or, where",
        'Kubernetes requires the field, to its zero. Times are RFC 3339 text, quantities text.\n"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any",
        "",
        "from msgspec import Struct, field",
        "",
    ]
    if module != "meta_v1":
        # What is not needed is removed below.
        others = "meta_v1" if module == "core_v1" else "core_v1, meta_v1"
        lines += [f"from podling.api import {others}", ""]
    for ref in refs:
        props = defs[ref].get("properties", {})
        required = defs[ref].get("required", [])
        lines += ["", f'class {split(ref)[1]}(Struct, kw_only=True, rename="camel", omit_defaults=True):']
        if not props:
            lines.append("    pass")
        gvk = defs[ref].get("x-kubernetes-group-version-kind", [])
        for name, schema in sorted(props.items()):
            is_root = len(gvk) == 1 and name in {"apiVersion", "kind"}
            if is_root:
                group = gvk[0]["group"]
                value = (
                    gvk[0]["kind"] if name == "kind" else f"{group + '/' if group else ''}{gvk[0]['version']}"
                )
                # No default equals None here: omit_defaults would drop the type from the wire.
                lines.append(f'    {snake(name)}: str = field(default_factory=lambda: "{value}")')
            elif name == "metadata" and gvk:
                meta = pytype(schema, module)
                lines.append(f"    metadata: {meta} = field(default_factory={meta})")
            else:
                lines.append(field(name, schema, required=name in required, module=module))
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    defs = load()
    seen = reachable(defs)
    for package, module in MODULES.items():
        refs = sorted(r for r in seen if split(r)[0] == package)
        (OUT / f"{module}.py").write_text(render(defs, module, refs))
    files = [str(OUT / f"{m}.py") for m in MODULES.values()]
    subprocess.run(["ruff", "check", "-q", "--fix", "--select", "F401,I", *files], check=True)
    subprocess.run(["ruff", "format", "-q", *files], check=True)


if __name__ == "__main__":
    main()
