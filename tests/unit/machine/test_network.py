from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from podling.machine.config import ClusterConfig, ConfigError
from podling.machine.network import parse_network, set_up_network
from podling.machine.node_config import agent_config

PODS = IPv4Network("10.244.2.0/24")


@pytest.mark.parametrize(
    ("value", "backend"),
    [
        ("bridge", ""),
        ("flannel", "vxlan"),
        ("flannel:vxlan", "vxlan"),
        ("flannel:host-gw", "host-gw"),
        ("flannel:udp", "udp"),
    ],
)
def test_networks_by_name(value: str, backend: str):
    network = parse_network(value)
    assert network.backend == backend
    name, text = network.cni_conf(PODS)
    (plugin,) = json.loads(text)["plugins"]
    assert (name, plugin["type"]) == (
        ("10-flannel.conflist", "flannel") if backend else ("10-podling.conflist", "bridge")
    )
    config = ClusterConfig(name="x", index=1, network=network)
    agent = agent_config(config, config.nodes[1])
    assert agent.route_sync is not bool(backend)
    if backend:
        assert agent.flannel is not None
        assert agent.flannel.net_conf.network == IPv4Network("10.245.0.0/16")
        assert agent.flannel.net_conf.backend.type == backend


def test_a_file_is_installed_as_it_is_with_the_nodes_own_subnet(tmp_path: Path):
    path = tmp_path / "mine.conf"
    text = '{"cniVersion":"0.3.1","name":"n","type":"ptp","ipam":{"type":"host-local","subnet":"usePodCidr"}}'
    path.write_text(text)
    network = parse_network(str(path))
    assert not network.is_flannel
    assert network.cni_conf(PODS) == ("mine.conf", text.replace("usePodCidr", "10.244.2.0/24"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("flannel:wireguard", 'flannel has no backend "wireguard", but vxlan, host-gw, udp'),
        ("calico", "neither flannel:vxlan, flannel:host-gw, flannel:udp, bridge nor a file"),
        ("bridge:x", "nor a file"),
        ("", "nor a file"),
        ("flannel:", "flannel has no backend"),
    ],
)
def test_what_there_is_not_is_refused_in_one_sentence(value: str, words: str):
    with pytest.raises(ConfigError) as refused:
        parse_network(value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("net.yaml", "{}", "a CNI configuration ends in"),
        ("net.conf", "not json", "error parsing configuration"),
        ("net.conflist", '{"name": "n", "cniVersion": "1.0.0"}', "no 'plugins' key"),
        (
            "net.conf",
            '{"name": "n", "cniVersion": "9.9.9", "type": "bridge"}',
            "unsupported cniVersion: 9.9.9",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, name: str, text: str, words: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        parse_network(str(path))
    assert words in str(refused.value)


def test_an_agent_of_its_own_gets_the_configuration_written(tmp_path: Path):
    made = set_up_network(
        parse_network("flannel:udp"),
        conf_dir=tmp_path / "net.d",
        pod_cidr=None,
        cluster_cidr=IPv4Network("10.1.0.0/16"),
        node_ip=IPv4Address("192.0.2.1"),
    )
    assert made is not None
    assert made.addresses == (IPv4Address("192.0.2.1"),)
    assert (tmp_path / "net.d" / "10-flannel.conflist").exists()


@pytest.mark.parametrize(("value", "option"), [("flannel:vxlan", "--cluster-cidr"), ("bridge", "--pod-cidr")])
def test_an_agent_that_is_told_too_little_says_what_it_needs(tmp_path: Path, value: str, option: str):
    with pytest.raises(ConfigError, match=option):
        set_up_network(
            parse_network(value),
            conf_dir=tmp_path,
            pod_cidr=None,
            cluster_cidr=None,
            node_ip=IPv4Address("192.0.2.1"),
        )
