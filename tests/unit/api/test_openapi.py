import msgspec
import pytest

from podling.api import openapi
from podling.api.resources import RESOURCES


def get(path, accept=""):
    found = openapi.document(path, accept)
    assert found is not None
    return msgspec.json.decode(found[0])


def test_the_index_names_a_document_for_every_group_version():
    paths = get("/openapi/v3")["paths"]
    assert {"api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1"} <= set(paths)
    for name, entry in paths.items():
        path, _, query = entry["serverRelativeURL"].partition("?")
        assert path == f"/openapi/v3/{name}"
        assert query.startswith("hash=")
        assert get(path)["openapi"] == "3.0.0"


def test_there_are_no_other_documents():
    for path in ("/openapi", "/openapi/v1", "/openapi/v3/apis/apps/v2", "/openapi/v3/"):
        assert openapi.document(path) is None


def test_every_kinds_patch_takes_field_validation():
    """kubectl looks for this to leave the validation to the server."""
    for kind, info in RESOURCES.items():
        root = info.path().rpartition("/")[0]
        gvk = {"group": info.group, "version": info.version, "kind": kind.__name__}
        patches = [
            item["patch"]
            for item in get(f"/openapi/v3{root}")["paths"].values()
            if item.get("patch", {}).get("x-kubernetes-group-version-kind") == gvk
        ]
        assert patches, kind
        assert "fieldValidation" in [p["name"] for p in patches[0]["parameters"]]


def references(schema):
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


@pytest.mark.parametrize("path", ["/openapi/v3/api/v1", "/openapi/v3/apis/coordination.k8s.io/v1"])
def test_v3_refers_only_to_what_it_holds(path):
    document = get(path)
    held = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= held


def test_v2_refers_only_to_what_it_holds():
    document = get("/openapi/v2", "application/json")
    assert set(references(document)) <= {f"#/definitions/{name}" for name in document["definitions"]}
    assert "/api/v1/namespaces/{namespace}/pods/{name}" in document["paths"]


def test_v3_has_descriptions_and_required_fields():
    schemas = get("/openapi/v3/api/v1")["components"]["schemas"]
    container = schemas["io.k8s.api.core.v1.Container"]
    assert container["required"] == ["name"]
    assert "single application container" in container["description"]
    probe = container["properties"]["livenessProbe"]
    assert probe["allOf"] == [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Probe"}]


def fields(message):
    """Read a protobuf message as (number, value) pairs."""
    at = 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2
            length = varint()
            yield tag >> 3, message[at : at + length]
            at += length


def test_v2_as_protobuf_holds_the_same_definitions():
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    body, content_type = openapi.document("/openapi/v2", accept)
    assert content_type == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    document = dict(fields(body))
    assert document[1] == b"2.0"
    names = {dict(fields(item))[1].decode() for _, item in fields(document[9])}
    assert names == set(get("/openapi/v2")["definitions"])
    paths = {dict(fields(item))[1].decode() for _, item in fields(document[8])}
    assert paths == set(get("/openapi/v2")["paths"])
