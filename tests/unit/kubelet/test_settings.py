"""Flags, the configuration file and the declarations that both follow from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from podling.api.durations import format_duration, parse_duration
from podling.kubelet.config import KubeletConfig
from podling.kubelet.config_file import NOT_HERE, ConfigFileError, load_config_file
from podling.kubelet.flags import NOT_HERE as FLAGS_NOT_HERE
from podling.kubelet.flags import FlagError, help_of, parse_flags
from podling.kubelet.settings import settings_of, shown
from podling.kubelet.thresholds import Threshold
from podling.machine.agent_config import agent_settings

SETTINGS = settings_of(KubeletConfig)
FILE_SETTINGS = agent_settings()
"""A file may also say what is of the agent beside the kubelet."""
HEAD = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"


def load(tmp_path: Path, body: str, head: str = HEAD) -> dict[str, Any]:
    path = tmp_path / "config.yaml"
    path.write_text(head + body)
    return load_config_file(path, FILE_SETTINGS)


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--cluster-domain=a.b"], {"cluster_domain": "a.b"}),
        (["--cluster-domain", "a.b"], {"cluster_domain": "a.b"}),
        (["--cluster_domain=a.b"], {"cluster_domain": "a.b"}),
        (["--fail-swap-on"], {"fail_swap_on": True}),
        (["--fail-swap-on=false", "-v4"], {"fail_swap_on": False, "verbosity": 4}),
        (["-v", "5"], {"verbosity": 5}),
        (["--cluster-dns=10.96.0.10,10.96.0.11"], {"cluster_dns": ("10.96.0.10", "10.96.0.11")}),
        (["--cluster-dns=1.1.1.1", "--cluster-dns=2.2.2.2"], {"cluster_dns": ("1.1.1.1", "2.2.2.2")}),
        (["--node-labels=a=b,c=", "--node-labels=a=d"], {"node_labels": {"a": "d", "c": ""}}),
        (["--max-pods=5", "--max-pods=6"], {"max_pods": 6}),
        (["--sync-frequency=1m30s"], {"sync_frequency_s": 90.0}),
        (["--pod-manifest-path=/m"], {"static_pod_path": Path("/m")}),
        (
            ["--eviction-hard=memory.available<100Mi,nodefs.inodesFree<1000,nodefs.available<10%"],
            {
                "eviction_hard": (
                    Threshold("memory.available", "100Mi"),
                    Threshold("nodefs.inodesFree", "1000"),
                    Threshold("nodefs.available", "10%"),
                )
            },
        ),
    ],
)
def test_flags_are_read_as_pflag_reads_them(argv: list[str], values: dict[str, Any]) -> None:
    assert parse_flags(argv, SETTINGS) == values


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--foo=1"], "unknown flag: --foo"),
        (["--cpu-manager-policy=static"], "unsupported flag: --cpu-manager-policy"),
        (["--max-pods"], "flag needs an argument: --max-pods"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["serve"], "unknown command serve"),
        (
            ["--max-pods=many"],
            'invalid argument "many" for "--max-pods" flag: strconv.ParseInt: parsing "many": invalid syntax',
        ),
        (
            ["--fail-swap-on=perhaps"],
            'invalid argument "perhaps" for "--fail-swap-on" flag: strconv.ParseBool: parsing "perhaps": '
            "invalid syntax",
        ),
        (
            ["--sync-frequency=10"],
            'invalid argument "10" for "--sync-frequency" flag: time: missing unit in duration "10"',
        ),
        (
            ["--cgroup-driver=systemd"],
            'invalid argument "systemd" for "--cgroup-driver" flag: must be "cgroupfs", not "systemd": '
            "the runtime makes its cgroups itself",
        ),
        (["--eviction-hard=memory<1"], None),
        (["--eviction-hard=memory.available<110%"], None),
        (["--eviction-hard=memory.available"], None),
        (["--register-with-taints=a=b:Sometimes"], None),
        (["--system-reserved=gpu=1"], None),
    ],
)
def test_a_bad_flag_is_refused_by_name(argv: list[str], message: str | None) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(argv, SETTINGS)
    if message is not None:
        assert str(caught.value) == message
    assert argv[0].partition("=")[0].lstrip("-") in str(caught.value)


def test_every_flag_is_explained_with_its_default() -> None:
    text = help_of(SETTINGS)
    for item in SETTINGS:
        if item.flag:
            assert re.search(rf"^  --{item.flag} \w", text, re.MULTILINE), item.flag
            assert len(item.help) > 10
    assert "[default: memory.available<100Mi,nodefs.available<10%" in " ".join(text.split())


def test_no_name_is_both_a_setting_and_not_there() -> None:
    flags = [item.flag for item in SETTINGS if item.flag]
    files = [item.file for item in SETTINGS if item.file]
    assert len(set(flags)) == len(flags)
    assert len(set(files)) == len(files)
    assert not set(flags) & FLAGS_NOT_HERE
    assert not set(files) & set(NOT_HERE)


def test_a_file_as_kubeadm_writes_it_is_taken(tmp_path: Path) -> None:
    body = """
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: cgroupfs
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 0
imageMaximumGCAge: 0s
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
memorySwap: {}
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
volumeStatsAggPeriod: 0s
"""
    values = load(tmp_path, body)
    assert values["rotate_certificates"] is True
    assert values["client_ca"] == tmp_path / "pki/ca.crt"
    assert values["static_pod_path"] == Path("/etc/kubernetes/manifests")
    assert values["healthz_port"] == 0
    assert "file_check_frequency_s" not in values


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("clusterDomian: x\n", ['unknown field "clusterDomian"']),
        ("authentication: {x509: {ca: x}}\n", ['unknown field "authentication.x509.ca"']),
        ("a: 1\nb: {c: 2}\n", ['unknown field "a"', 'unknown field "b"']),
        ("maxPods: many\n", ["maxPods: cannot unmarshal string into a field of type int32"]),
        ("failSwapOn: 'false'\n", ["failSwapOn: cannot unmarshal string"]),
        ("maxPods: 5\nmaxPods: 6\n", ['key "maxPods" already set in map']),
        ("cpuManagerPolicy: static\n", ['field "cpuManagerPolicy" is not supported here']),
        ("clusterDNS: 10.96.0.10\n", ["clusterDNS: cannot unmarshal string into a field of type []string"]),
        ("{\n", ["failed to decode"]),
        ("evictionHard: {cpu.available: 1}\n", ["evictionHard: "]),
    ],
)
def test_a_bad_file_is_refused_with_every_fault(tmp_path: Path, body: str, words: list[str]) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(tmp_path, body)
    message = str(caught.value)
    assert message.startswith(
        f"failed to load kubelet config file, path: {tmp_path / 'config.yaml'}, error: "
    )
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", "Object 'Kind' is missing"),
        ("kind: KubeletConfiguration\n", "Object 'apiVersion' is missing"),
        (
            "kind: Pod\napiVersion: v1\n",
            'no kind "Pod" is registered for version "v1"',
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, head: str, words: str) -> None:
    with pytest.raises(ConfigFileError, match=re.escape(words)):
        load(tmp_path, "maxPods: 1\n", head)


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    config = KubeletConfig(
        node_name="n",
        node_ip="10.0.0.1",
        cluster_dns=("10.96.0.10",),
        sync_frequency_s=90,
        system_reserved={"cpu": "200m"},
        static_pod_path=Path("/m"),
        fail_swap_on=False,
    )
    document = shown(SETTINGS, config)
    values = load(tmp_path, yaml.safe_dump(document, sort_keys=False))
    assert KubeletConfig(**{"node_name": "n", "node_ip": "10.0.0.1", **values}) == config


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("10s", 10), ("1m30s", 90), ("1h0m0s", 3600), ("100ms", 0.1), ("1.5h", 5400), ("-2s", -2)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (0, "0s"), (0.5, "500ms"), (3600, "1h0m0s")],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("text", ["", "s", "10", "1x", "1m 2s", "--1s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        parse_duration(text)
