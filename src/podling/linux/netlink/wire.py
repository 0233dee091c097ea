"""Netlink framing: messages, attributes and the error reply (`man 7 netlink`, `<linux/netlink.h>`).

Everything here is a pure function over bytes. A `Request` is a message without its sequence number, which
the socket fills in, so that builders of several messages can be sent in one system call.
"""

from __future__ import annotations

import errno as _errno
import os
import struct

from podling.linux.record import record

NLMSG_ERROR, NLMSG_DONE = 2, 3

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO = 0x01, 0x02, 0x04, 0x08
NLM_F_DUMP_INTR = 0x10
NLM_F_ROOT, NLM_F_MATCH = 0x100, 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200  # in an error reply

NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTR = struct.Struct("=HH")
HEADER_BYTES = _HEADER.size


class NetlinkError(OSError):
    """The kernel refused a request: `errno` is its reason, the text what was asked and the kernel's words."""


@record
class Request:
    """A message ready to be sent, with a sentence fragment for errors (`add route 10.244.2.0/24`)."""

    kind: int
    flags: int
    body: bytes
    what: str

    def pack(self, sequence: int) -> bytes:
        size = HEADER_BYTES + len(self.body)
        return _HEADER.pack(size, self.kind, self.flags | NLM_F_REQUEST, sequence, 0) + self.body


@record
class Message:
    """A received message; `body` starts after the header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTR.pack(size, kind) + payload + bytes(-size & 3)


def attr_u8(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=B", value))


def attr_u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def attr_u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def attr_str(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def nested(kind: int, *attrs: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(attrs))


def parse_attrs(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, without their flag bits; the last one of a type wins."""
    # Not by way of list_attrs: this loop is a good part of what wiring a pod costs.
    attrs: dict[int, bytes] = {}
    unpack, last = _ATTR.unpack_from, len(data) - 4
    while offset <= last:
        size, kind = unpack(data, offset)
        if size < 4:
            break
        attrs[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return attrs


def list_attrs(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """All attributes in their order, for lists of one type."""
    attrs: list[tuple[int, bytes]] = []
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTR.unpack_from(data, offset)
        if size < 4:
            break
        attrs.append((kind & NLA_TYPE_MASK, data[offset + 4 : offset + size]))
        offset += (size + 3) & ~3
    return attrs


def parse_messages(data: bytes) -> list[Message]:
    messages = []
    offset = 0
    while offset + HEADER_BYTES <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < HEADER_BYTES:
            break
        body = data[offset + HEADER_BYTES : offset + size]
        messages.append(Message(kind=kind, flags=flags, sequence=sequence, body=body))
        offset += (size + 3) & ~3
    return messages


def error_of(reply: Message, what: str) -> NetlinkError | None:
    """What an NLMSG_ERROR (or the status in NLMSG_DONE) says; None for an acknowledgement."""
    code = -int(struct.unpack_from("=i", reply.body)[0]) if len(reply.body) >= 4 else 0
    if code == 0:
        return None
    text = os.strerror(code)
    if reply.flags & NLM_F_ACK_TLVS:
        # The request's header is echoed before the attributes; its body too, unless capped.
        start = 4 + HEADER_BYTES
        if reply.kind == NLMSG_DONE:
            start = 4
        elif not reply.flags & NLM_F_CAPPED:
            start = 4 + ((struct.unpack_from("=I", reply.body, 4)[0] + 3) & ~3)
        words = parse_attrs(reply.body, start).get(NLMSGERR_ATTR_MSG)
        if words:
            text += f" ({text_of(words)})"
    name = _errno.errorcode.get(code, str(code))
    return NetlinkError(code, f"{what}: {text} [{name}]")


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def mac_bytes(text: str) -> bytes:
    """`ValueError` when `text` is not a 48-bit address such as `0a:58:0a:f4:01:02`."""
    raw = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {text!r}")
    return raw


def text_of(raw: bytes | None) -> str:
    return raw.rstrip(b"\0").decode(errors="replace") if raw else ""
