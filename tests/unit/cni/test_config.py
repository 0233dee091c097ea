from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from podling.cni.config import discover, load_file, parse, plugin_conf
from podling.cni.types import ConfigError

BRIDGE = {"type": "bridge", "bridge": "cni0"}
LIST = {"cniVersion": "1.0.0", "name": "podling", "plugins": [BRIDGE]}


def write(directory: Path, name: str, content: Any) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_first_valid_file_by_name_is_the_network(tmp_path: Path):
    write(tmp_path, "30.conflist", LIST | {"name": "third"})
    write(tmp_path, "20.conf", BRIDGE | {"cniVersion": "0.3.1", "name": "second"})
    write(tmp_path, "10.conflist", "{ not json")
    write(tmp_path, "05.txt", LIST)
    found = discover(tmp_path)
    assert found.network is not None
    assert found.network.name == "second"
    (problem,) = found.problems
    assert "10.conflist" in problem.message
    assert "error parsing configuration" in problem.message


def test_an_empty_or_missing_directory_has_no_network(tmp_path: Path):
    assert discover(tmp_path).network is None
    assert discover(tmp_path / "none").network is None


def test_the_single_configuration_of_the_dind_cluster():
    network = parse(
        b'{"cniVersion": "0.3.1", "name": "dindnet", "type": "bridge", "bridge": "dind0",'
        b' "ipam": {"type": "host-local"}}'
    )
    assert (network.name, network.cni_version) == ("dindnet", "0.3.1")
    (plugin,) = network.plugins
    assert plugin.type == "bridge"
    assert parse(network.raw).plugins == network.plugins  # as it is cached


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ([], "must be a JSON object"),
        ({"cniVersion": "1.0.0", "plugins": [BRIDGE]}, "no name"),
        (LIST | {"plugins": []}, "no plugins in list"),
        (LIST | {"plugins": {}}, "no plugins in list"),
        (LIST | {"plugins": {"type": "x"}}, "expected a list"),
        (LIST | {"plugins": [{}]}, 'plugin config 0: missing "type"'),
        (LIST | {"plugins": [BRIDGE, 7]}, "plugin config 1"),
        (LIST | {"plugins": [{"type": "../evil"}]}, "invalid plugin type"),
        (LIST | {"cniVersion": "9.9.9"}, "unsupported cniVersion: 9.9.9"),
        (LIST | {"cniVersions": "1.0.0"}, "invalid type for cniVersions"),
        (LIST | {"cniVersion": "2.0.0", "cniVersions": ["3.0.0"]}, "unsupported cniVersion: 2.0.0, 3.0.0"),
        (LIST | {"name": "../../etc/passwd"}, "invalid characters in network name"),
        (LIST | {"name": "."}, "invalid characters in network name"),
        (LIST | {"disableCheck": "perhaps"}, 'invalid value "perhaps" for disableCheck'),
        (LIST | {"disableGC": 1}, 'invalid value "1" for disableGC'),
        (LIST | {"loadOnlyInlinedPlugins": []}, 'invalid value "[]" for loadOnlyInlinedPlugins'),
        ({"cniVersion": "1.0.0", "name": "x", "loadOnlyInlinedPlugins": True}, "no 'plugins' key"),
        ({"cniVersion": "1.0.0", "name": "x"}, 'missing "type"'),
    ],
)
def test_what_is_wrong_is_said_with_the_files_name(tmp_path: Path, conf: Any, words: str):
    single = isinstance(conf, dict) and not conf.keys() & {"plugins", "loadOnlyInlinedPlugins"}
    suffix = "conf" if single else "conflist"
    path = write(tmp_path, f"10.{suffix}", conf)
    with pytest.raises(ConfigError) as info:
        load_file(path)
    assert str(path) in info.value.message
    assert words in info.value.message


def test_a_conflist_without_plugins_is_no_single_configuration(tmp_path: Path):
    with pytest.raises(ConfigError, match="no 'plugins' key"):
        load_file(write(tmp_path, "10.conflist", BRIDGE | {"cniVersion": "1.0.0", "name": "x"}))


def test_the_newest_common_version_is_taken():
    assert (
        parse(json.dumps(LIST | {"cniVersions": ["0.4.0", "1.1.0", "7.0.0"]}).encode()).cni_version == "1.1.0"
    )


def test_a_document_without_a_version_is_of_the_first():
    assert parse(b'{"name": "x", "type": "bridge"}').cni_version == "0.1.0"


@pytest.mark.parametrize("word", [True, "true", "True"])
def test_what_is_not_to_be_done_is_said_as_people_write_it(word: object):
    network = parse(json.dumps(LIST | {"disableCheck": word, "disableGC": word}).encode())
    assert network.disable_check
    assert network.disable_gc
    assert not parse(json.dumps(LIST | {"disableGC": "false"}).encode()).disable_gc


def test_plugins_are_added_from_the_folder_of_the_network(tmp_path: Path):
    write(tmp_path, "podling/20-b.conf", {"type": "tuning"})
    write(tmp_path, "podling/10-a.conf", {"type": "portmap"})
    path = write(tmp_path, "10.conflist", LIST)
    assert [plugin.type for plugin in load_file(path).plugins] == ["bridge", "portmap", "tuning"]
    write(tmp_path, "10.conflist", LIST | {"loadOnlyInlinedPlugins": True})
    assert [plugin.type for plugin in load_file(path).plugins] == ["bridge"]


def test_what_a_plugin_gets_on_stdin():
    raw = {"type": "portmap", "capabilities": {"portMappings": True, "mac": False}, "snat": True, "odd": [1]}
    network = parse(json.dumps(LIST | {"plugins": [raw]}).encode())
    conf = plugin_conf(
        network,
        network.plugins[0],
        capability_args={"portMappings": [{"hostPort": 80}], "mac": "x", "bandwidth": {}},
        prev_result={"ips": []},
    )
    assert conf == {
        "type": "portmap",
        "snat": True,
        "odd": [1],
        "name": "podling",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": [{"hostPort": 80}]},
        "prevResult": {"ips": []},
    }
