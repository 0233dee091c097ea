import pytest

from podling.machine.config import ClusterConfig, ConfigError, validate_name, validate_workers


def test_the_first_cluster_has_the_nodes_and_ranges_of_the_texts() -> None:
    config = ClusterConfig(name="podling", index=0)
    assert [(n.name, str(n.interface), str(n.pod_cidr)) for n in config.nodes] == [
        ("kube-master", "10.192.0.2/24", "10.244.1.0/24"),
        ("kube-node-1", "10.192.0.3/24", "10.244.2.0/24"),
        ("kube-node-2", "10.192.0.4/24", "10.244.3.0/24"),
    ]
    assert str(config.service_network) == "10.96.0.0/16"
    assert str(config.cluster_dns) == "10.96.0.10"
    assert config.server == "https://10.192.0.2:6443"
    assert config.context == "podling-podling"


def test_no_two_clusters_share_an_address() -> None:
    ranges = [
        network
        for index in range(12)
        for config in [ClusterConfig(name="x", index=index)]
        for network in (config.switch_network, config.pod_network, config.service_network)
    ]
    for i, one in enumerate(ranges):
        assert not any(one.overlaps(other) for other in ranges[i + 1 :])


@pytest.mark.parametrize("name", ["a", "my-cluster", "x1", "a" * 40])
def test_names_that_can_be_a_cluster(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "../x", "a" * 41, "a\n"])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(ConfigError, match="not a valid cluster name"):
        validate_name(name)


@pytest.mark.parametrize("workers", [-1, 201])
def test_a_number_of_workers_the_switch_has_no_room_for(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"--workers {workers}: must be between"):
        validate_workers(workers)


def test_an_unknown_node_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match='no node "nope" in cluster "c": its nodes are kube-master, kube-node-1'
    ):
        ClusterConfig(name="c", index=0, workers=1).node("nope")
