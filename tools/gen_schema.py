"""Generate src/podling/api/openapi_v1_37.json.gz from Kubernetes' OpenAPI definitions.

Run by a maintainer, like gen_types.py and from the same source:

    pip install kubernetes-validate && python tools/gen_schema.py

The table holds the upstream definitions, descriptions included, of the kinds we serve and of all
they refer to. A further kind is one more name in ROOTS of gen_types.py. The output is the same bytes
for the same input: keys are sorted and the gzip header carries no time.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from gen_types import OUT, ROOTS, VERSION, load

# Served or answered, but not needed as Python types.
EXTRA = {
    "io.k8s.apimachinery.pkg.apis.meta.v1": ["Patch"],
    "io.k8s.api.authentication.v1": ["SelfSubjectReview"],
    "io.k8s.api.authorization.v1": [
        "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview",
    ],
}  # fmt: skip
TARGET = OUT / "openapi_v1_37.json.gz"


def convert(schema: Any) -> Any:
    """Turn JSON schema back into what upstream publishes: no null types, no added enums."""
    if isinstance(schema, list):
        return [convert(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, list):
            out[key] = next(t for t in value if t != "null")
        elif key == "$ref":
            out[key] = value.replace("#/$defs/", "#/definitions/")
        elif key == "properties":
            out[key] = {name: convert(field) for name, field in value.items()}
        elif key not in ("enum", "$schema", "additionalProperties") or isinstance(value, dict):
            out[key] = convert(value)
    if "oneOf" in out:
        # Quantity and IntOrString: upstream says string with a format, and so do we.
        out = {"type": "string"}
    return out


def references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    if not isinstance(schema, dict):
        return set()
    found = set().union(*(references(value) for value in schema.values()))
    if isinstance(schema.get("$ref"), str):
        found.add(schema["$ref"].removeprefix("#/$defs/"))
    return found


def reachable(defs: dict[str, Any]) -> list[str]:
    waiting = []
    for roots in (ROOTS, EXTRA):
        for package, names in roots.items():
            for name in names:
                # The list kind comes with its kind.
                waiting += [f"{package}.{n}" for n in (name, f"{name}List") if f"{package}.{n}" in defs]
    seen: set[str] = set()
    while waiting:
        ref = waiting.pop()
        if ref not in seen:
            seen.add(ref)
            waiting += references(defs[ref])
    return sorted(seen)


def main() -> None:
    defs = load()
    table = {ref: convert(defs[ref]) for ref in reachable(defs)}
    table["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"] = "int-or-string"
    document = {"version": VERSION.removesuffix("-local"), "definitions": table}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    TARGET.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{TARGET.name}: {len(table)} types, {len(text)} bytes, {TARGET.stat().st_size} compressed")


if __name__ == "__main__":
    main()
