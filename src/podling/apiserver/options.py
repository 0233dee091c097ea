"""Parameters that writes share: dry run, and the body of a delete."""

from __future__ import annotations

from collections.abc import Sequence

from podling.api.validation import FieldError
from podling.apiserver import bodies, errors
from podling.apiserver.registry import DeleteOptions
from podling.apiserver.request import Request
from podling.apiserver.resource import Object


def dry_run(request: Request, kind: str) -> bool:
    """Raises APIError 422; `kind` is CreateOptions, UpdateOptions, PatchOptions."""
    return _all(request.query.all("dryRun"), kind)


def _all(values: Sequence[str], kind: str) -> bool:
    for value in values:
        if value != "All":
            fault = FieldError(
                field="dryRun",
                reason="FieldValueNotSupported",
                message=f'Unsupported value: "{value}": supported values: "All"',
            )
            raise errors.invalid(kind, "", [fault], group="meta.k8s.io")
    return bool(values)


def delete_options(request: Request) -> DeleteOptions:
    """From the body, else from the query. Raises APIError 400, 415, 422."""
    body = bodies.read_options(request, "DeleteOptions")
    dry = _all(body.get("dryRun") or request.query.all("dryRun"), "DeleteOptions")
    return parse_delete(body, request, dry_run=dry)


def parse_delete(body: Object, request: Request, *, dry_run: bool) -> DeleteOptions:
    """`body`, DeleteOptions, completed from the query. Raises APIError 400, 422."""
    query, preconditions = request.query, body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds")
    if grace is None:
        grace = query.integer("gracePeriodSeconds")
    if grace is not None and type(grace) is not int:
        raise errors.bad_request(
            "json: cannot unmarshal value into Go struct field DeleteOptions.gracePeriodSeconds of type int64"
        )
    policy = body.get("propagationPolicy") or query.get("propagationPolicy")
    if policy and policy not in ("Orphan", "Background", "Foreground"):
        fault = FieldError(
            field="propagationPolicy",
            reason="FieldValueNotSupported",
            message=f'Unsupported value: "{policy}": supported values: "Background", "Foreground", "Orphan"',
        )
        raise errors.invalid("DeleteOptions", "", [fault], group="meta.k8s.io")
    return DeleteOptions(
        grace_period_s=grace,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run=dry_run,
        propagation=policy or _old_policy(body, request),
    )


def _old_policy(body: Object, request: Request) -> str:
    """The policy as `orphanDependents` says it, which propagationPolicy replaced."""
    orphan = body.get("orphanDependents")
    if orphan is None and request.query.get("orphanDependents"):
        orphan = request.query.flag("orphanDependents")
    return "" if orphan is None else "Orphan" if orphan else "Background"
