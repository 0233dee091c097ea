"""The three patch types of the API: JSON patch, merge patch and strategic merge patch.

Each takes the document and the patch as decoded JSON and returns a new document; neither argument is
changed, but the result may share what was left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from podling.api.schema import Schema
from podling.api.strategic import PatchError, merge

# Upstream's limit for one request.
MAX_JSON_PATCH_OPERATIONS: Final = 10_000

__all__ = ["PatchError", "json_patch", "merge_patch", "strategic_merge_patch"]


def strategic_merge_patch(doc: dict[str, Any], patch: Any, schema: Schema, ref: str) -> dict[str, Any]:
    """Apply a strategic merge patch to an object of the definition `ref`. Raises PatchError."""
    if not isinstance(patch, dict):
        raise PatchError(400, "a strategic merge patch is a JSON object")
    return merge(doc, patch, schema.type(ref))


def merge_patch(doc: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386, section 2): null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


# JSON patch


def json_patch(doc: Any, operations: Any) -> Any:
    """Apply a JSON patch (RFC 6902). Either all operations apply or PatchError is raised."""
    if not isinstance(operations, list):
        raise PatchError(400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > MAX_JSON_PATCH_OPERATIONS:
        raise PatchError(
            413,
            f"The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, "
            f"got {len(operations)}",
        )
    for operation in operations:
        doc = _apply_operation(doc, operation)
    return doc


def _apply_operation(doc: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise PatchError(400, "a JSON patch operation is an object with op and path")
    op, path = operation.get("op"), operation["path"]
    match op:
        case "add" | "replace" if "value" not in operation:
            raise PatchError(422, f"{op} operation for path {path} has no value")
        case "add":
            return _change(doc, path, op, lambda holder, key: _insert(holder, key, operation["value"]))
        case "remove":
            return _change(doc, path, op, _remove)
        case "replace":
            return _change(doc, path, op, lambda holder, key: _put(holder, key, operation["value"]))
        case "test":
            if not _same(_look_up(doc, path, op, missing=None), operation.get("value")):
                raise PatchError(422, f"testing value {path} failed: test failed")
            return doc
        case "move" | "copy":
            source = operation.get("from")
            if not isinstance(source, str):
                raise PatchError(422, f"{op} operation for path {path} has no from")
            value = _look_up(doc, source, op)
            if op == "move":
                if path.startswith(f"{source}/"):
                    raise PatchError(422, f"move operation does not apply: {source} cannot move into itself")
                doc = _change(doc, source, op, _remove)
            return _change(doc, path, op, lambda holder, key: _insert(holder, key, value))
        case _:
            raise PatchError(422, f"Unexpected kind: {op}")


_MISSING: Final = object()


def _does_not_apply(op: str, path: str) -> PatchError:
    return PatchError(422, f'{op} operation does not apply: doc is missing path: "{path}": missing value')


def _look_up(doc: Any, path: str, op: str, missing: Any = _MISSING) -> Any:
    for key in _pointer(path, op):
        doc = _get(doc, key)
        if doc is _MISSING and missing is _MISSING:
            raise _does_not_apply(op, path)
        if doc is _MISSING:
            return missing
    return doc


def _pointer(path: str, op: str) -> list[str]:
    """Split a JSON pointer (RFC 6901)."""
    if not path:
        return []
    if not path.startswith("/"):
        raise _does_not_apply(op, path)
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _get(holder: Any, key: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(key, _MISSING)
    if isinstance(holder, list):
        index = _index(holder, key)
        return _MISSING if index is None else holder[index]
    return _MISSING


def _index(holder: list[Any], key: str) -> int | None:
    """Return the index `key` stands for; negative ones count from the end, as upstream allows."""
    digits = key.removeprefix("-")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 9:
        return None
    index = int(key)
    index = index + len(holder) if index < 0 else index
    return index if 0 <= index < len(holder) else None


def _change(doc: Any, path: str, op: str, change: Callable[[Any, str], Any]) -> Any:
    """Return `doc` with `change` done to a copy of what holds the last key, and copies up to the root."""
    keys = _pointer(path, op)
    if not keys:
        return _change({"": doc}, "/", op, change).get("", None)
    holders = [doc]
    for key in keys[:-1]:
        holders.append(_get(holders[-1], key))
    try:
        changed = change(holders[-1], keys[-1])
    except (KeyError, IndexError, TypeError):
        raise _does_not_apply(op, path) from None
    for holder, key in zip(holders[-2::-1], keys[-2::-1], strict=True):
        changed = _put(holder, key, changed)
    return changed


def _put(holder: Any, key: str, value: Any) -> Any:
    if isinstance(holder, list):
        index = _index(holder, key)
        if index is None:
            raise IndexError(key)
        return [*holder[:index], value, *holder[index + 1 :]]
    if not isinstance(holder, dict) or key not in holder:
        raise KeyError(key)
    return {**holder, key: value}


def _insert(holder: Any, key: str, value: Any) -> Any:
    if isinstance(holder, dict):
        return {**holder, key: value}
    if not isinstance(holder, list):
        raise TypeError(key)
    if key in ("-", str(len(holder))):
        return [*holder, value]
    index = _index(holder, key)
    if index is None:
        raise IndexError(key)
    return [*holder[:index], value, *holder[index:]]


def _remove(holder: Any, key: str) -> Any:
    if isinstance(holder, dict):
        result = dict(holder)
        del result[key]
        return result
    if not isinstance(holder, list):
        raise TypeError(key)
    index = _index(holder, key)
    if index is None:
        raise IndexError(key)
    return [*holder[:index], *holder[index + 1 :]]


def _same(left: Any, right: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(v, right[k]) for k, v in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
