"""How `podling run` reads docker's options."""

from __future__ import annotations

import pytest

from podling.cli.byhand import Refused
from podling.cli.run_options import env, mount, port, restart, size
from podling.cli.stats import human
from podling.runtime.byhand.settings import Port, Restart
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
