"""gRPC's default encoding, by our own tables: what client and server give to grpclib."""

from __future__ import annotations

from typing import Any

from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from podling.runtime.cri.codec import CodecError, decode, encode


class StructCodec(CodecBase):
    """gRPC's default encoding, by our own tables."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        try:
            return encode(message)
        except CodecError as err:
            raise GRPCError(Status.INTERNAL, f"while marshaling: {err}") from err

    def decode(self, data: bytes, message_type: Any) -> Any:
        try:
            return decode(message_type, data)
        except CodecError as err:
            raise GRPCError(Status.INTERNAL, f"failed to unmarshal the received message: {err}") from err
