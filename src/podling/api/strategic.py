"""Strategic merge patch: objects merge field by field, lists by the merge keys of the schema.

Kubernetes SIG API machinery, "Strategic Merge Patch"; `kubectl apply` and `kubectl edit` send it. It
knows these directives, which may stand beside the fields they speak of:

- `$patch: replace` takes the patch as it is, `$patch: delete` empties a map or removes a list element;
- `$retainKeys` removes every other key (used where one of several fields may be set);
- `$setElementOrder/FIELD` gives the order of a merged list;
- `$deleteFromPrimitiveList/FIELD` removes scalars from a merged list.

Neither the document nor the patch is changed; the result may share parts of both.
"""

from __future__ import annotations

from typing import Any, Final

from podling.api.fieldtypes import Field, Is, Type

_DIRECTIVE: Final = "$patch"
_RETAIN: Final = "$retainKeys"
_ORDER: Final = "$setElementOrder/"
_DELETE: Final = "$deleteFromPrimitiveList/"


class PatchError(Exception):
    """A patch that is malformed (400), too long (413) or does not apply (422)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def merge(doc: dict[str, Any] | None, patch: dict[str, Any], type_: Type | None) -> dict[str, Any]:
    """Return `doc` with `patch` merged into it. Without a type every list is replaced whole."""
    if _DIRECTIVE in patch:
        return _whole_map(patch)
    result = dict(doc or {})
    _retain_keys(result, patch)
    for key, value in patch.items():
        if key.startswith(_ORDER):
            _set_order(result, patch, key.removeprefix(_ORDER), value, type_)
    ordered = {key.removeprefix(_ORDER) for key in patch if key.startswith(_ORDER)}
    for key, value in patch.items():
        if key == _RETAIN or key.startswith(_ORDER) or key in ordered:
            continue
        if key.startswith(_DELETE):
            _delete_scalars(result, key.removeprefix(_DELETE), value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, _field(type_, key))
    return result


def _field(type_: Type | None, key: str) -> Field | None:
    return type_.fields.get(key) if type_ is not None else None


def _merge_value(old: Any, new: Any, field: Field | None) -> Any:
    if isinstance(new, dict):
        if not isinstance(old, dict):
            old = None
        if field is not None and "replace" in field.strategies:
            return _clean(new)
        if field is not None and field.kind is Is.MAP:
            return _merge_map(old, new, field)
        return merge(old, new, field.type if field is not None else None)
    if isinstance(new, list):
        if isinstance(old, list) and field is not None and "merge" in field.strategies:
            return _merge_list(old, new, field)
        return _clean(new)
    return new


def _merge_map(old: dict[str, Any] | None, new: dict[str, Any], field: Field) -> dict[str, Any]:
    """Merge maps of arbitrary keys: here `$` starts no directive but `$patch`."""
    if _DIRECTIVE in new:
        return _whole_map(new)
    result = dict(old or {})
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, field.item)
    return result


def _whole_map(patch: dict[str, Any]) -> dict[str, Any]:
    match patch[_DIRECTIVE]:
        case "replace":
            return {key: _clean(value) for key, value in patch.items() if key != _DIRECTIVE}
        case "delete":
            return {}
        case other:
            raise PatchError(400, f"unknown patch type: {other!r} found in a map")


def _retain_keys(result: dict[str, Any], patch: dict[str, Any]) -> None:
    if _RETAIN not in patch:
        return
    retained = patch[_RETAIN]
    if not isinstance(retained, list) or not all(isinstance(key, str) for key in retained):
        raise PatchError(400, "invalid patch format of retainKeys")
    for key, value in patch.items():
        if value is None or key == _RETAIN or key.startswith((_ORDER, _DELETE)):
            continue
        if key not in retained:
            raise PatchError(400, "invalid patch format of retainKeys")
    for key in [key for key in result if key not in retained]:
        del result[key]


def _clean(value: Any) -> Any:
    """Return a value that takes the place of nothing: without directives, deletions and nulls."""
    if isinstance(value, dict):
        if value.get(_DIRECTIVE) == "delete":
            return {}
        return {
            key: _clean(inner)
            for key, inner in value.items()
            if inner is not None
            and key not in (_DIRECTIVE, _RETAIN)
            and not key.startswith((_ORDER, _DELETE))
        }
    if isinstance(value, list):
        return [
            _clean(inner)
            for inner in value
            if not (isinstance(inner, dict) and inner.get(_DIRECTIVE) in ("delete", "replace"))
        ]
    return value


# Lists


def _merge_list(old: list[Any], new: list[Any], field: Field) -> list[Any]:
    """Merge lists element by element, then put them in the order the patch suggests."""
    if not old and not new:
        return old
    if not any(isinstance(element, dict) for element in (*old, *new)):
        merged = _unique([*old, *new])
        return _in_order(merged, new, old, "")
    key = field.merge_key
    if not key:
        raise PatchError(400, f"cannot merge lists without merge key for {field.go_type}")
    base = old
    elements = []
    replaced = False
    for element in new:
        if not isinstance(element, dict):
            raise PatchError(400, "all elements of a list with a merge key must be objects")
        match element.get(_DIRECTIVE):
            case None:
                elements.append(element)
            case "replace":
                replaced = True
            case "delete":
                value = _key_of(element, key)
                base = [kept for kept in base if not (isinstance(kept, dict) and kept.get(key) == value)]
            case other:
                raise PatchError(400, f"unknown patch type: {other!r} found in a list element")
    if replaced:
        return [_clean(element) for element in elements]
    merged = list(base)
    item_type = field.element_type()
    for element in elements:
        value = _key_of(element, key)
        at = next((i for i, have in enumerate(merged) if have.get(key) == value), None)
        if at is None:
            merged.append(_clean(element))
        else:
            merged[at] = merge(merged[at], element, item_type)
    return _in_order(merged, elements, old, key)


def _key_of(element: dict[str, Any], key: str) -> Any:
    if key not in element:
        raise PatchError(400, f"map: {element} does not contain declared merge key: {key}")
    return element[key]


def _unique(values: list[Any]) -> list[Any]:
    return list({_identity(value, ""): value for value in values}.values())


def _delete_scalars(result: dict[str, Any], key: str, removed: Any) -> None:
    if not isinstance(removed, list):
        raise PatchError(400, "invalid patch format of delete primitive list")
    if isinstance(result.get(key), list):
        result[key] = [value for value in result[key] if value not in removed]


def _set_order(
    result: dict[str, Any], patch: dict[str, Any], key: str, order: Any, type_: Type | None
) -> None:
    """Merge the list `key` and put it in the order of a `$setElementOrder` directive."""
    if not isinstance(order, list):
        raise PatchError(400, "invalid patch format of setElementOrder list")
    field = _field(type_, key)
    merge_key = field.merge_key if field is not None else ""
    old, new = result.get(key), patch.get(key)
    if key in patch and new is None:
        result.pop(key, None)
        return
    if isinstance(new, list):
        _check_order(new, order, merge_key, key)
        merged = _merge_value(old, new, field)
    elif isinstance(old, list):
        merged = old
    else:
        return
    result[key] = _in_order(merged, order, old if isinstance(old, list) else [], merge_key)


def _check_order(new: list[Any], order: list[Any], merge_key: str, key: str) -> None:
    """Refuse a patch whose own elements are not in the order it asks for."""
    wanted = [_identity(element, merge_key) for element in order]
    at = 0
    for element in new:
        if isinstance(element, dict) and _DIRECTIVE in element:
            continue
        try:
            at = wanted.index(_identity(element, merge_key), at) + 1
        except ValueError:
            raise PatchError(
                400, f"The order in patch list:\n{new}\n doesn't match {_ORDER}{key} list:\n{order}\n"
            ) from None


def _identity(element: Any, merge_key: str) -> Any:
    """Return what tells an element from others, as something that can be a key."""
    value = element.get(merge_key) if isinstance(element, dict) else element
    return repr(value) if isinstance(value, (dict, list)) else value


def _in_order(merged: list[Any], order: list[Any], old: list[Any], merge_key: str) -> list[Any]:
    """Sort what the patch names by the patch, the rest as it was, and weave the two together.

    An element only the server has keeps its place before those it stood before.
    """
    wanted = {_identity(element, merge_key): i for i, element in reversed(list(enumerate(order)))}
    before = {_identity(element, merge_key): i for i, element in reversed(list(enumerate(old)))}

    def place(element: Any, places: dict[Any, int]) -> int:
        return places.get(_identity(element, merge_key), len(places))

    named = [e for e in merged if _identity(e, merge_key) in wanted]
    others = [e for e in merged if _identity(e, merge_key) not in wanted]
    named.sort(key=lambda e: place(e, wanted))
    others.sort(key=lambda e: place(e, before))
    result = []
    while named and others:
        left, right = _identity(others[0], merge_key), _identity(named[0], merge_key)
        other_first = left in before and right in before and before[left] < before[right]
        result.append(others.pop(0) if other_first else named.pop(0))
    return [*result, *named, *others]
