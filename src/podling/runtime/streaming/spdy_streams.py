"""Exec and attach over SPDY: the streams a client opens, by their `streamType` header.

k8s.io/kubelet, pkg/cri/streaming/remotecommand: the client opens error, then those of stdin, stdout, stderr
that the request asked for and, with a TTY from v3.channel.k8s.io on, resize. Nothing starts before all are
there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from podling.runtime.streaming.bytequeue import ByteQueue
from podling.runtime.streaming.remotecommand import Status, encode_status
from podling.runtime.streaming.spdy_frames import ResetStatus
from podling.runtime.streaming.spdy_session import SpdySession, SpdyStream

PROTOCOLS = {
    "v4.channel.k8s.io": 4,
    "v3.channel.k8s.io": 3,
    "v2.channel.k8s.io": 2,
    "channel.k8s.io": 1,
}
"""Those served over SPDY, by version; v5 is a WebSocket protocol."""
LINGER_S = 10
"""For the client to read everything and hang up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Which streams an exec or attach has."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


class SpdyProcessStreams:
    """`ProcessStreams` over one SPDY session."""

    def __init__(self, session: SpdySession, streams: dict[str, SpdyStream], *, version: int) -> None:
        self.gone = session.ended
        self.stdin = _input(streams.get("stdin"))
        self.resize = _input(streams.get("resize"))
        self._session = session
        self._streams = streams
        self._version = version

    async def write_stdout(self, data: bytes) -> None:
        if stream := self._streams.get("stdout"):
            await stream.write(data)

    async def write_stderr(self, data: bytes) -> None:
        if stream := self._streams.get("stderr"):
            await stream.write(data)

    async def finish(self, status: Status) -> None:
        try:
            for name, stream in self._streams.items():
                stream.stop_reading()
                if name != "error":
                    stream.close()
            error = self._streams["error"]
            await error.write(encode_status(status, version=self._version))
            error.close()
        except ConnectionError:
            return
        await self._session.close(linger_s=LINGER_S)


def _input(stream: SpdyStream | None) -> ByteQueue:
    if stream is not None:
        return stream.input
    nothing = ByteQueue()
    nothing.feed_eof()
    return nothing


async def accept_process_streams(
    session: SpdySession, options: StreamOptions, *, version: int, timeout_s: float
) -> SpdyProcessStreams | None:
    """Wait for the client's streams; None when it went away, did not open them in time, or opened others."""
    wanted = _expected(options, version)
    streams: dict[str, SpdyStream] = {}
    try:
        async with asyncio.timeout(timeout_s):
            while wanted - streams.keys():
                stream = await session.accept()
                if stream is None:
                    return None
                stream_type = stream.headers.get("streamtype", "")
                if (
                    stream_type not in ("error", "stdin", "stdout", "stderr", "resize")
                    or stream_type in streams
                ):
                    stream.reset(ResetStatus.REFUSED_STREAM)
                    continue
                streams[stream_type] = stream
                session.reply(stream)
    except TimeoutError:
        return None
    return SpdyProcessStreams(session, streams, version=version)


def _expected(options: StreamOptions, version: int) -> set[str]:
    wanted = {
        "error": True,
        "stdin": options.stdin,
        "stdout": options.stdout,
        "stderr": options.stderr and not options.tty,
        "resize": options.tty and version >= 3,
    }
    return {name for name, is_wanted in wanted.items() if is_wanted}
