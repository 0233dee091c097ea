"""Certificate signing requests: who asks is what the server knows, and nothing of the question changes."""

from __future__ import annotations

from podling.api.validation.certificates import parse_request
from podling.apiserver import errors
from podling.apiserver.cluster import Cluster
from podling.apiserver.request import User
from podling.apiserver.resource import Guard, Object, Strategy

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
MASTERS = "system:masters"


class CertificateSigningRequestStrategy(Strategy):
    async def guard(self, cluster: Cluster, user: User, namespace: str) -> Guard | None:
        def note_requester(new: Object, old: Object | None) -> None:
            if old is not None:
                return
            spec = new.setdefault("spec", {})
            for field in ("username", "uid", "groups", "extra"):
                spec.pop(field, None)
            spec["username"], spec["groups"] = user.name, list(user.groups)
            if user.uid:
                spec["uid"] = user.uid
            if user.extra:
                spec["extra"] = {key: list(values) for key, values in user.extra.items()}

        return note_requester

    def prepare_create(self, cluster: Cluster, obj: Object) -> None:
        obj.pop("status", None)

    def admit(self, cluster: Cluster, obj: Object, *, dry_run: bool) -> None:
        """Nobody becomes a master by a request (upstream's CertificateSubjectRestriction)."""
        spec = obj["spec"]
        if spec.get("signerName") != CLIENT_SIGNER:
            return
        organizations = {
            a.value for a in parse_request(spec["request"]).subject if a.oid.dotted_string == "2.5.4.10"
        }
        if MASTERS in organizations:
            why = f"use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
            raise errors.forbidden(
                "certificatesigningrequests.certificates.k8s.io", obj["metadata"]["name"], why
            )

    def prepare_update(self, cluster: Cluster, new: Object, old: Object) -> None:
        super().prepare_update(cluster, new, old)
        new["spec"] = old["spec"]

    def prepare_status(self, cluster: Cluster, new: Object, old: Object) -> None:
        """What was decided, and by whom, is the approvers' to write (`approval`)."""
        super().prepare_status(cluster, new, old)
        status = new.setdefault("status", {})
        kept = [c for c in _conditions(old) if c.get("type") in ("Approved", "Denied")]
        others = [c for c in _conditions(new) if c.get("type") not in ("Approved", "Denied")]
        status["conditions"] = [*kept, *others]
        if not status["conditions"]:
            del status["conditions"]


def approved_by(new: Object, old: Object) -> Object:
    """`old` with the conditions of `new`: all that the subresource `approval` may change."""
    result = dict(old)
    result["status"] = {**(old.get("status") or {}), "conditions": _conditions(new)}
    result["metadata"] = {**old["metadata"], "resourceVersion": new["metadata"].get("resourceVersion", "")}
    return result


def _conditions(obj: Object) -> list[Object]:
    return list((obj.get("status") or {}).get("conditions") or [])
