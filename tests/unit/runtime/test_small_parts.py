"""Names, timings, records, sandbox files, stop signals, ages: one or two facts each."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest

from podling.cli.containers import human_duration
from podling.cli.ps import table
from podling.linux.processes import ProcessRef
from podling.runtime import names
from podling.runtime.config import RuntimeConfig
from podling.runtime.container_create import InvalidSignalError, signal_number
from podling.runtime.container_stats import parse_net_dev
from podling.runtime.cri import messages as cri
from podling.runtime.sandbox_files import resolv_conf
from podling.runtime.state import (
    ContainerPhase,
    ContainerRecord,
    Paths,
    Records,
    SandboxPhase,
    SandboxRecord,
    write_whole,
)
from podling.runtime.timings import Timings


def test_names_are_dockershims() -> None:
    pod = cri.PodSandboxMetadata(name="web", namespace="shop", uid="u-1", attempt=2)
    assert names.sandbox_name(pod) == "k8s_POD_web_shop_u-1_2"
    container = cri.ContainerMetadata(name="nginx", attempt=5)
    assert names.container_name(container, pod) == "k8s_nginx_web_shop_u-1_5"
    assert len(names.new_id()) == 64


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    paths = Paths(RuntimeConfig(root_dir=tmp_path / "root", run_dir=tmp_path / "run"))
    paths.ensure()
    records = Records(paths)
    sandbox = SandboxRecord(
        id="a" * 64,
        name="n",
        created_at=5,
        phase=SandboxPhase.READY,
        ips=["10.0.0.2"],
        pause=ProcessRef(1, 2, "b"),
        config=cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name="x"), dns_config=cri.DNSConfig(servers=["1.1.1.1"])
        ),
    )
    container = ContainerRecord(
        id="c" * 64,
        sandbox_id=sandbox.id,
        name="m",
        image_id="sha256:1",
        image_name="busybox",
        created_at=6,
        phase=ContainerPhase.EXITED,
        config=cri.ContainerConfig(
            envs=[cri.KeyValue(key="A", value=b"\xff\x00")], stop_signal=cri.Signal.SIGUSR1
        ),
    )
    paths.layer(container.id).mkdir()
    records.save_sandbox(sandbox)
    records.save_container(container)
    assert list(records.sandboxes()) == [sandbox]
    assert list(records.containers()) == [container]
    records.drop_sandbox(sandbox.id)
    records.drop_sandbox(sandbox.id)
    assert list(records.sandboxes()) == []


def test_unreadable_records_are_skipped(tmp_path: Path) -> None:
    paths = Paths(RuntimeConfig(root_dir=tmp_path / "root", run_dir=tmp_path / "run"))
    paths.ensure()
    paths.sandbox_record("x").write_bytes(b'{"id": "x"')
    paths.sandbox_record("y").write_bytes(b"")
    assert list(Records(paths).sandboxes()) == []


def test_whole_writes_replace_and_leave_nothing(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resolv_conf() -> None:
    dns = cri.DNSConfig(servers=["10.96.0.10", "1.1.1.1"], searches=["a.b", "c"], options=["ndots:5"])
    assert resolv_conf(dns) == "search a.b c\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
    assert resolv_conf(cri.DNSConfig()) == ""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("TERM", 15),
        ("9", 9),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-2", signal.SIGRTMAX - 2),
    ],
)
def test_stop_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNOPE", "", "4711"])
def test_unknown_stop_signals(name: str) -> None:
    with pytest.raises(InvalidSignalError):
        signal_number(name)


def test_network_counters() -> None:
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n"
        "    lo:     100       1    0    0    0     0          0         0      100       1    0    0\n"
        "  eth0:    1234      10    2    0    0     0          0         0     5678      20    3    0\n"
    )
    (name,) = parsed = parse_net_dev(text)
    counted = parsed[name]
    assert name == "eth0"
    assert (counted["receive_bytes"], counted["receive_errors"]) == (1234, 2)
    assert (counted["transmit_bytes"], counted["transmit_errors"]) == (5678, 3)


def test_timings_summarise_by_phase() -> None:
    timings = Timings(kept=3)
    for _ in range(5):
        with timings.phase("a", "x"):
            pass
    with pytest.raises(msgspec.ValidationError), timings.phase("b"):
        raise msgspec.ValidationError
    assert {phase: summary.count for phase, summary in timings.summary().items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (600, "10 minutes"),
        (3600, "About an hour"),
        (7300, "2 hours"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (100 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages_as_docker_writes_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_table_columns_line_up() -> None:
    assert table([("A", "LONG HEADER", "C"), ("1", "x", "y")]) == (
        "A         LONG HEADER   C\n1         x             y\n"
    )
