"""The CRI on a unix socket, for crictl, a real kubelet or anyone else: gRPC over HTTP/2.

    server = CRIServer(runtime, runtime, Path("/run/podling/cri.sock"))
    await server.start()
    ...
    await server.stop()

It adds the wire and nothing else: each RPC is the coroutine of that name of the object our own kubelet
calls. Whoever reaches the socket owns the node, so only root does (mode 0600).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError
from podling.runtime.cri.grpc_codec import StructCodec
from podling.runtime.cri.methods import IMAGE_METHODS, PACKAGE, RUNTIME_METHODS, Method
from podling.runtime.cri.service import ImageService, RuntimeService
from podling.runtime.cri.unknown import unknown_value

log = logging.getLogger(__name__)

BACKLOG = 128
MAX_MESSAGE_BYTES = 8 * 1024
"""Of an error's text: it travels as a header, and those are bounded."""

_SERVICES = frozenset(f"{PACKAGE}.{service.__name__}" for service in (RuntimeService, ImageService))
_Stream = Stream[Any, Any]


class CRIServer:
    def __init__(self, runtime: RuntimeService, images: ImageService, path: Path) -> None:
        self._path = path
        self._services = (_Service(runtime, RUNTIME_METHODS), _Service(images, IMAGE_METHODS))
        self._server: _Server | None = None
        self._inode = 0

    async def start(self) -> None:
        """Listen. A socket an earlier life left is replaced. `OSError` when that is not possible."""
        listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        self._server = _Server(self._services)
        await self._server.start(sock=listener)

    async def stop(self) -> None:
        """End every call and close the socket. Before `start`, and twice, is fine."""
        server, self._server = self._server, None
        if server is None:
            return
        try:
            if self._path.stat().st_ino == self._inode:  # not one that a later server put there
                self._path.unlink()
        except FileNotFoundError:
            pass
        server.close()
        await server.wait_closed()


class _Server(Server):
    """grpclib's, with two things changed: `close` ends connections, for which `wait_closed` else waits until
    their clients go; and an unknown method is answered in full, not with headers that clients in Go refuse.

    `_protocol_factory` and `_mapping` are private to grpclib, hence its upper bound in pyproject.toml.
    """

    def __init__(self, services: tuple[_Service, ...]) -> None:
        super().__init__(services, codec=StructCodec())
        self._mapping = _Methods(self._mapping)
        self._protocols: WeakSet[H2Protocol] = WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols.add(protocol)
        return protocol

    def close(self) -> None:
        super().close()
        for protocol in self._protocols:
            if hasattr(protocol, "processor"):  # connected
                protocol.processor.close("the runtime ends")


class _Methods(dict[str, Handler]):
    def get(self, path: str, default: Any = None) -> Handler:
        return super().get(path) or Handler(
            _unknown(path), Cardinality.UNARY_UNARY, cri.VersionRequest, cri.VersionResponse
        )


def _unknown(path: str) -> Callable[[_Stream], Awaitable[None]]:
    """In grpc-go's words."""
    service, _, name = path.removeprefix("/").rpartition("/")

    async def handle(stream: _Stream) -> None:
        if service in _SERVICES:
            raise GRPCError(Status.UNIMPLEMENTED, f"unknown method {name} for service {service}")
        raise GRPCError(Status.UNIMPLEMENTED, f"unknown service {service}")

    return handle


def _listen(path: Path) -> socket.socket:
    """Nobody sees the socket before it has its mode and answers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of one that was killed here
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(new))
        new.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        new.rename(path)
    except BaseException:
        listener.close()
        new.unlink(missing_ok=True)
        raise
    return listener


class _Service:
    """What grpclib asks for the paths it serves."""

    def __init__(self, implementation: RuntimeService | ImageService, methods: tuple[Method, ...]) -> None:
        self._handlers = {m.path: _handler(getattr(implementation, m.attribute), m) for m in methods}

    def __mapping__(self) -> dict[str, Handler]:
        return self._handlers


def _handler(call: Callable[[Any], Any], method: Method) -> Handler:
    if method.streams:
        return Handler(
            _streaming(call, method), Cardinality.UNARY_STREAM, method.request_type, method.response_type
        )
    return Handler(_unary(call, method), Cardinality.UNARY_UNARY, method.request_type, method.response_type)


def _unary(call: Callable[[Any], Awaitable[Any]], method: Method) -> Callable[[_Stream], Awaitable[None]]:
    async def handle(stream: _Stream) -> None:
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{method.name} takes one request")
        try:
            _check(request, method)
            response = await call(request)
        except Exception as err:
            raise _status(err, method) from err
        await stream.send_message(response)

    return handle


def _streaming(
    call: Callable[[Any], AsyncIterator[Any]], method: Method
) -> Callable[[_Stream], Awaitable[None]]:
    async def handle(stream: _Stream) -> None:
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{method.name} takes one request")
        try:
            _check(request, method)
            responses = call(request)
            # At once: a client that waits for the headers knows that from now on it misses no event.
            await stream.send_initial_metadata()
            async for response in responses:
                await stream.send_message(response)
        except StreamTerminatedError:
            raise  # the client went
        except Exception as err:
            raise _status(err, method) from err

    return handle


def _check(request: msgspec.Struct, method: Method) -> None:
    if found := unknown_value(request):
        raise CRIError(Code.INVALID_ARGUMENT, f"{method.name}: {found}")


def _status(err: Exception, method: Method) -> GRPCError:
    if isinstance(err, GRPCError):
        return err
    if isinstance(err, CRIError):
        return GRPCError(Status(err.code), _bounded(err.message))
    log.error("CRI %s failed", method.name, exc_info=err)
    return GRPCError(Status.UNKNOWN, _bounded(f"{method.name}: {type(err).__name__}: {err}"))


def _bounded(text: str) -> str:
    # A lone surrogate (a file name that is no UTF-8) would not travel.
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_MESSAGE_BYTES:
        return data.decode()
    return data[:MAX_MESSAGE_BYTES].decode(errors="ignore") + " ..."
