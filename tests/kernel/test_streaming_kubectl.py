"""Real kubectl, oldest and newest, through two proxies to real processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel.streaming_local import Certificates, Chain, chain, make_certificates
from podling.machine.kubectl import KubectlNotFoundError, kubectl_path

STDIN_BYTES = 50 * 1024 * 1024


@dataclass(frozen=True)
class Flavour:
    """A kubectl version and the protocol it is made to speak."""

    version: str
    websocket: bool


FLAVOURS = [
    Flavour("1.27", websocket=False),
    Flavour("1.37", websocket=False),
    Flavour("1.37", websocket=True),
]


@pytest.fixture(
    params=FLAVOURS, ids=lambda flavour: f"{flavour.version}-{'websocket' if flavour.websocket else 'spdy'}"
)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param


@pytest.fixture
def binary(flavour: Flavour) -> Path:
    try:
        return kubectl_path(flavour.version)
    except KubectlNotFoundError as err:
        pytest.skip(f"needs kubectl {flavour.version}: {err}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def cluster(certificates: Certificates) -> AsyncIterator[Chain]:
    async with chain(certificates) as running:
        yield running
        async with asyncio.timeout(10):
            # A client that was killed is noticed when its connection ends.
            await asyncio.gather(*(process.process.wait() for process in running.backend.processes))


@dataclass
class Kubectl:
    binary: Path
    flavour: Flavour
    url: str
    home: Path

    async def start(self, *args: str, **kwargs: object) -> asyncio.subprocess.Process:
        websocket = str(self.flavour.websocket).lower()
        pipe = asyncio.subprocess.PIPE
        environment = {
            "HOME": str(self.home),
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websocket,
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": websocket,
        }
        flags = ("--server", self.url, "--insecure-skip-tls-verify", "--token=none")
        return await asyncio.create_subprocess_exec(
            self.binary,
            *(*args[:1], *flags, *args[1:]),
            **{"stdin": pipe, "stdout": pipe, "stderr": pipe, "env": environment, **kwargs},
        )

    async def run(self, *args: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        process = await self.start(*args)
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out, err


@pytest.fixture
def kubectl(binary: Path, flavour: Flavour, cluster: Chain, tmp_path: Path) -> Kubectl:
    return Kubectl(binary, flavour, cluster.api_url, tmp_path)


async def test_exec_shows_both_outputs_and_exits_with_the_commands_code(kubectl: Kubectl) -> None:
    code, out, err = await kubectl.run(
        "exec", "web", "--", "sh", "-c", "echo to-out; echo to-err >&2; exit 7"
    )
    assert out == b"to-out\n"
    assert err.splitlines() == [b"to-err", b"command terminated with exit code 7"]
    assert code == 7


async def test_exec_of_a_command_killed_by_a_signal_exits_with_128_and_the_signal(kubectl: Kubectl) -> None:
    code, _, _ = await kubectl.run("exec", "web", "--", "sh", "-c", "kill -9 $$")
    assert code == 137


async def test_exec_that_succeeds_is_quiet(kubectl: Kubectl) -> None:
    r = await kubectl.run("exec", "web", "--", "true")
    assert r == (0, b"", b"")


async def test_exec_of_a_missing_command_says_so(kubectl: Kubectl) -> None:
    code, _, err = await kubectl.run("exec", "web", "--", "no-such-command")
    assert code == 1
    assert b"error executing command in container" in err
    assert b"No such file or directory: 'no-such-command'" in err


async def test_exec_in_a_container_that_is_gone_says_so(kubectl: Kubectl) -> None:
    code, _, err = await kubectl.run("exec", "gone", "--", "true")
    assert code == 1
    assert b'error executing command in container: container "gone" not found' in err


async def test_arguments_arrive_as_they_were(kubectl: Kubectl) -> None:
    arguments = ["a b", "c+d&e=f;g%20h", "ä", "", "#x?y"]
    code, out, _ = await kubectl.run("exec", "web", "--", "printf", "%s|", *arguments)
    assert (code, out.decode()) == (0, "|".join([*arguments, ""]))


async def test_stdin_comes_back_whole_and_its_end_is_seen(kubectl: Kubectl) -> None:
    data = os.urandom(1024 * 1024) * (STDIN_BYTES // 1024 // 1024)
    code, out, err = await kubectl.run("exec", "-i", "web", "--", "cat", stdin=data)
    assert (code, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


async def test_output_goes_on_after_stdin_ended(kubectl: Kubectl) -> None:
    code, out, _ = await kubectl.run(
        "exec", "-i", "web", "--", "sh", "-c", "cat; echo; sleep 0.1; echo after", stdin=b"before"
    )
    assert (code, out) == (0, b"before\nafter\n")


async def test_a_command_that_ignores_its_stdin_ends_all_the_same(kubectl: Kubectl) -> None:
    code, _, _ = await kubectl.run("exec", "-i", "web", "--", "sh", "-c", "exit 3", stdin=b"x" * 5_000_000)
    assert code == 3


async def test_large_binary_output_is_whole(kubectl: Kubectl) -> None:
    code, out, _ = await kubectl.run(
        "exec", "web", "--", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' '\\377'"
    )
    assert code == 0
    assert out == b"\xff" * 20_000_000


async def test_a_terminal_follows_the_users_size(kubectl: Kubectl) -> None:
    master, slave = os.openpty()
    _resize(master, rows=33, columns=101)
    script = "while :; do stty size; sleep 0.05; done"
    process = await kubectl.start(
        "exec", "-it", "web", "--", "sh", "-c", script, stdin=slave, stdout=slave, start_new_session=True
    )
    os.close(slave)
    try:
        await _read_until(master, b"33 101")
        _resize(master, rows=44, columns=122)
        # Without a controlling terminal the kernel tells nobody: stand in for it.
        process.send_signal(signal.SIGWINCH)
        await _read_until(master, b"44 122")
    finally:
        process.kill()
        await process.wait()
        os.close(master)


async def test_attach_joins_the_process(kubectl: Kubectl) -> None:
    code, out, _ = await kubectl.run("attach", "-i", "web", stdin=b"hello\n")
    assert (code, out) == (0, b"attached\nhello\n")


async def test_a_killed_client_leaves_no_process(kubectl: Kubectl, cluster: Chain) -> None:
    process = await kubectl.start("exec", "-i", "web", "--", "sh", "-c", "echo up; exec sleep 1000")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.kill()
    await process.wait()
    async with asyncio.timeout(5):
        await cluster.backend.processes[0].process.wait()


async def test_a_client_killed_while_its_input_is_not_taken_leaves_no_process(
    kubectl: Kubectl, cluster: Chain
) -> None:
    process = await kubectl.start("exec", "-i", "web", "--", "sh", "-c", "echo up; exec sleep 1000")
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while True:
                process.stdin.write(b"x" * 1_000_000)
                await process.stdin.drain()
    process.kill()
    await process.wait()
    # Nobody reads from the client any more, so only a ping to it finds out.
    async with asyncio.timeout(20):
        await cluster.backend.processes[0].process.wait()


async def test_port_forward_carries_many_connections(kubectl: Kubectl) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def talk(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = bytes([number]) * (100_000 + number)
        writer.write(data)
        await writer.drain()
        assert await reader.readexactly(len(data)) == data
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        async with port_forwarded(kubectl, server.sockets[0].getsockname()[1]) as local_port:
            async with asyncio.timeout(30):
                await asyncio.gather(*(talk(local_port, number) for number in range(40)))
        server.close()


async def test_port_forward_to_a_closed_port_says_so(kubectl: Kubectl) -> None:
    process = await kubectl.start("port-forward", "pod/web", ":1")
    assert process.stdout is not None
    assert process.stderr is not None
    line = await process.stdout.readline()
    local_port = int(line.split(b" -> ")[0].rsplit(b":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", local_port)
    writer.write(b"x")
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    async with asyncio.timeout(10):
        assert b"error forwarding port 1 to pod web" in await process.stderr.readline()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


@contextlib.asynccontextmanager
async def port_forwarded(kubectl: Kubectl, port: int) -> AsyncIterator[int]:
    process = await kubectl.start("port-forward", "pod/web", f":{port}")
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        yield int(line.split(b" -> ")[0].rsplit(b":", 1)[1])
    finally:
        process.kill()
        await process.communicate()


def _resize(terminal: int, *, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def _read_until(terminal: int, wanted: bytes) -> None:
    seen = b""
    os.set_blocking(terminal, False)
    async with asyncio.timeout(15):
        while wanted not in seen:
            with contextlib.suppress(BlockingIOError):
                seen += os.read(terminal, 65536)
                continue
            await asyncio.sleep(0.02)
