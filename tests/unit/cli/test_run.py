"""How `podling run` reads docker's options."""

from __future__ import annotations

import pytest

from podling.cli.byhand import Refused
from podling.cli.run import _bytes, _env, _mount, _port, _restart
from podling.cli.stats import human
from podling.runtime.byhand.settings import Port, Restart
from podling.runtime.cri.messages import MountPropagation


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(host_port=8080, container_port=80)),
        (
            "127.0.0.1:8080:80/udp",
            Port(host_ip="127.0.0.1", host_port=8080, container_port=80, protocol="udp"),
        ),
        ("53:53/sctp", Port(host_port=53, container_port=53, protocol="sctp")),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert _port(text) == port


def test_a_port_alone_gets_a_free_one() -> None:
    assert _port("80").host_port > 0


@pytest.mark.parametrize("text", ["", "x:80", "80:", "70000:80", "80:80/icmp", "0:80"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(Refused, match="invalid"):
        _port(text)


def test_volumes() -> None:
    mount = _mount("/a:/b:ro,rslave")
    assert (mount.host_path, mount.container_path, mount.readonly) == ("/a", "/b", True)
    assert mount.propagation is MountPropagation.PROPAGATION_HOST_TO_CONTAINER
    assert _mount("./data:/b").host_path.startswith("/")


@pytest.mark.parametrize("text", ["/a", "/a:b", "name:/b", "/a:/b:what", ":/b"])
def test_bad_volumes(text: str) -> None:
    with pytest.raises(Refused, match="invalid argument"):
        _mount(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert _env("A=b=c") == ["A=b=c"]
    assert _env("HERE") == ["HERE=yes"]
    assert _env("NOT_HERE") == []


def test_sizes() -> None:
    assert [_bytes(text) for text in ("", "7", "1k", "32m", "1G")] == [0, 7, 1 << 10, 32 << 20, 1 << 30]
    with pytest.raises(Refused):
        _bytes("lots")
    assert [human(208 * 1024, 1024), human(3187, 1000), human(0, 1000)] == ["208KiB", "3.187kB", "0B"]


def test_restart_policies() -> None:
    assert _restart("on-failure:3") == Restart(policy="on-failure", retries=3)
    for text in ("sometimes", "always:3", "on-failure:x"):
        with pytest.raises(Refused, match="invalid restart policy"):
            _restart(text)


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
