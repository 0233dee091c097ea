"""From a request to its answer: authorize, find the handler, turn every error into a Status.

The one entrance for both transports. A request that reaches it has a user already.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from podling.apiserver import authn, authz, errors, requestinfo
from podling.apiserver.cluster import Cluster
from podling.apiserver.documents import Documents
from podling.apiserver.metrics import Metrics
from podling.apiserver.objects import encode
from podling.apiserver.request import ANONYMOUS, Answer, Request, Response
from podling.apiserver.requestinfo import RequestInfo
from podling.apiserver.resource import Handler, Resource
from podling.store.interface import WriteFailedError

log = logging.getLogger(__name__)

MAX_WARNINGS_CHARS = 4096
MAX_WARNING_CHARS = 256
"""Upstream's limits of all warnings of an answer, and of one where there are too many."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Dispatcher:
    def __init__(
        self, cluster: Cluster, verbs: Mapping[str, Handler], documents: Documents, metrics: Metrics
    ) -> None:
        self._cluster = cluster
        self._verbs = verbs
        self._documents = documents
        self._metrics = metrics

    async def handle(self, request: Request) -> Answer:
        """Never raises but for cancellation."""
        try:
            answer = await self._handle(request)
        except errors.APIError as err:
            answer = error_response(err)
        except WriteFailedError as err:
            log.error("%s %s: %s", request.method, request.path, err)
            answer = error_response(errors.internal(str(err)))
        except Exception as err:
            log.exception("%s %s failed", request.method, request.path)
            answer = error_response(errors.internal(f"{type(err).__name__}: {err}"))
        if request.warnings and isinstance(answer, Response):
            return with_warnings(answer, request.warnings)
        return answer

    async def _handle(self, request: Request) -> Answer:
        info = requestinfo.parse(request.method, request.path, request.query)
        if request.user is ANONYMOUS:
            if info.path.rstrip("/") not in authn.ANONYMOUS_PATHS:
                raise errors.unauthorized()
        else:
            await authz.authorize(self._cluster, request, info)
        if not info.resource:
            return await self._documents.answer(request)
        resource = self._cluster.find(info.group, info.version, info.resource)
        if resource is None or info.subpath:
            raise errors.unknown_path()
        handler = self._handler(resource, info)
        self._metrics.count(info, request.method)
        return await handler(self._cluster, request, info, resource)

    def _handler(self, resource: Resource, info: RequestInfo) -> Handler:
        """Raises APIError 404, 405."""
        if not resource.namespaced and info.namespace and resource.plural != "namespaces":
            raise errors.unknown_path()
        if (
            resource.namespaced
            and not info.namespace
            and info.verb not in ("list", "watch", "deletecollection")
        ):
            raise errors.method_not_allowed() if not info.name else errors.unknown_path()
        if info.subresource:
            subresource = resource.subresources.get(info.subresource)
            if subresource is None:
                raise errors.unknown_path()
            verbs: Mapping[str, Handler] = subresource.verbs
        elif info.verb in resource.handlers:
            return resource.handlers[info.verb]
        elif info.verb in resource.verbs:
            verbs = self._verbs
        else:
            raise errors.method_not_allowed()
        if info.verb not in verbs:
            raise errors.method_not_allowed()
        return verbs[info.verb]


def error_response(err: errors.APIError) -> Response:
    return Response(err.code, encode(err.status()), headers=err.headers)


def with_warnings(answer: Response, warnings: list[str]) -> Response:
    """Texts as `Warning` headers (RFC 7234, section 5.5), which kubectl prints."""
    texts = [_CONTROL.sub("?", text) for text in dict.fromkeys(warnings)]
    if sum(map(len, texts)) > MAX_WARNINGS_CHARS:
        texts = [text[:MAX_WARNING_CHARS] for text in texts[: MAX_WARNINGS_CHARS // MAX_WARNING_CHARS]]
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    # One header with several warnings: a mapping cannot hold a name twice, and clients split at commas.
    value = ", ".join(f'299 - "{text}"' for text in quoted)
    return Response(answer.status, answer.body, answer.content_type, {**answer.headers, "Warning": value})
