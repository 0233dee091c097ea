"""How `podling run` reads docker's options."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from podling.cli.byhand import Refused
from podling.cli.logs import moment
from podling.cli.run_options import (
    capabilities,
    device,
    directory,
    dns,
    env,
    environment,
    host,
    mac,
    memory,
    mount,
    port,
    restart,
    security,
    size,
    swap,
    ulimit,
)
from podling.cli.stats import human
from podling.runtime.byhand.settings import Port, Restart, Ulimit
from podling.runtime.cri import messages as cri
from podling.runtime.cri.messages import MountPropagation


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080:80", Port(host_port=8080, container_port=80)),
        (
            "127.0.0.1:8080:80/udp",
            Port(host_ip="127.0.0.1", host_port=8080, container_port=80, protocol="udp"),
        ),
        ("53:53/sctp", Port(host_port=53, container_port=53, protocol="sctp")),
    ],
)
def test_ports(text: str, wanted: Port) -> None:
    assert port(text) == wanted


def test_a_port_alone_gets_a_free_one() -> None:
    assert port("80").host_port > 0


@pytest.mark.parametrize("text", ["", "x:80", "80:", "70000:80", "80:80/icmp", "0:80"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(Refused, match="invalid"):
        port(text)


def test_volumes() -> None:
    made = mount("/a:/b:ro,rslave")
    assert (made.host_path, made.container_path, made.readonly) == ("/a", "/b", True)
    assert made.propagation is MountPropagation.PROPAGATION_HOST_TO_CONTAINER
    assert mount("./data:/b").host_path.startswith("/")


@pytest.mark.parametrize("text", ["/a", "/a:b", "name:/b", "/a:/b:what", ":/b"])
def test_bad_volumes(text: str) -> None:
    with pytest.raises(Refused, match="invalid argument"):
        mount(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert env("A=b=c") == ["A=b=c"]
    assert env("HERE") == ["HERE=yes"]
    assert env("NOT_HERE") == []


def test_sizes() -> None:
    assert [size("-m", text) for text in ("", "7", "1k", "32m", "1G")] == [0, 7, 1 << 10, 32 << 20, 1 << 30]
    with pytest.raises(Refused):
        size("-m", "lots")
    assert [human(208 * 1024, 1024), human(3187, 1000), human(0, 1000)] == ["208KiB", "3.187kB", "0B"]


def test_restart_policies() -> None:
    assert restart("on-failure:3") == Restart(policy="on-failure", retries=3)
    for text in ("sometimes", "always:3", "on-failure:x"):
        with pytest.raises(Refused, match="invalid restart policy"):
            restart(text)


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "wanted"),
    [
        (Restart(), 1, 0, False),
        (Restart(policy="always"), 0, 9, True),
        (Restart(policy="unless-stopped"), 0, 9, True),
        (Restart(policy="on-failure"), 0, 0, False),
        (Restart(policy="on-failure"), 1, 99, True),
        (Restart(policy="on-failure", retries=2), 1, 1, True),
        (Restart(policy="on-failure", retries=2), 1, 2, False),
    ],
)
def test_who_is_started_again(policy: Restart, code: int, restarts: int, wanted: bool) -> None:
    assert policy.wanted(code, restarts) is wanted


def test_limits_and_devices() -> None:
    assert ulimit("nofile=10:20") == Ulimit(name="nofile", soft=10, hard=20)
    assert ulimit("core=-1") == Ulimit(name="core", soft=-1, hard=-1)
    for text in ("nofile", "nofile=", "nofile=9:1", "nofile=-1:5", "files=1", "nofile=1:2:3", "nofile=x"):
        with pytest.raises(Refused, match="ulimit"):
            ulimit(text)
    made = device("/dev/a:/dev/b:r")
    assert (made.host_path, made.container_path, made.permissions) == ("/dev/a", "/dev/b", "r")
    assert device("/dev/a").permissions == "rwm"
    assert device("/dev/a:rw").container_path == "/dev/a"
    for text in ("a", "/dev/a:b:r", "/a:/b:/c:r"):
        with pytest.raises(Refused, match="bad format for path"):
            device(text)
    assert [size("-m", text) for text in ("1.5g", "10kb", "2MiB", "3 m")] == [
        3 << 29,
        10 << 10,
        2 << 20,
        3 << 20,
    ]
    assert swap("-1", 0) == -1
    for text, limit in (("1g", 0), ("1m", 1 << 21)):
        with pytest.raises(Refused, match=r"(?i)memoryswap"):
            swap(text, limit)


def test_names_and_addresses() -> None:
    assert host("a:192.0.2.1") == ("192.0.2.1", "a")
    assert host("a:2001:db8::1") == ("2001:db8::1", "a")
    assert host("a=192.0.2.1") == ("192.0.2.1", "a")
    for text in ("a", ":192.0.2.1", "a:b", "a:host-gateway"):
        with pytest.raises(Refused, match="add-host"):
            host(text)
    assert mac("02-AA-bb-00-00-01") == "02:aa:bb:00:00:01"
    with pytest.raises(Refused, match="not a valid mac address"):
        mac("02:aa")
    made = dns(["192.0.2.53"], ["."], ["ndots:2"])
    assert made is not None
    assert (made.servers, made.searches, made.options) == (["192.0.2.53"], [], ["ndots:2"])
    assert dns([], [], []) is None


def test_security_options() -> None:
    context = cri.LinuxContainerSecurityContext()
    security(["no-new-privileges", "seccomp=unconfined", "label=disable"], context)
    assert context.no_new_privs is True
    assert context.seccomp is not None
    assert context.seccomp.profile_type is cri.SecurityProfileType.Unconfined
    security(["no-new-privileges:false"], context)
    assert context.no_new_privs is False
    for text in ("nonsense", "apparmor=mine", "seccomp="):
        with pytest.raises(Refused, match="security-opt"):
            security([text], context)


def test_env_files(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=two words\n")
    assert environment(["A=2"], [str(file)]) == ["A=1", "B=two words", "A=2"]
    file.write_text("bad name=1\n")
    with pytest.raises(Refused, match="contains whitespaces"):
        environment([], [str(file)])


def test_moments() -> None:
    assert moment("--since", "2025-01-31T12:00:00Z") == 1738324800
    assert moment("--since", "1738324800.5") == 1738324800.5
    assert moment("--since", "") is None
    ago = moment("--since", "1h30m")
    assert ago is not None
    assert abs(time.time() - 5400 - ago) < 60


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda: capabilities("CapAdd", ["net_admin", "cap_foo"]), 'CapAdd: unknown capability: "CAP_FOO"'),
        (
            lambda: directory("work"),
            "the working directory 'work' is invalid, it needs to be an absolute path",
        ),
        (lambda: memory("5m"), "Minimum memory limit allowed is 6MB"),
    ],
)
def test_what_docker_refuses(read: Callable[[], object], text: str) -> None:
    with pytest.raises(Refused, match=text) as caught:
        read()
    assert caught.value.exit_code == 125


def test_capabilities_by_every_spelling() -> None:
    assert capabilities("CapDrop", ["ALL", "net_admin", "CAP_CHOWN"]) == ["ALL", "net_admin", "CAP_CHOWN"]
