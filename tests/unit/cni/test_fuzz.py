"""Documents nobody would write: a configuration, a result or a cache entry is taken, or refused in words."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from podling.cni import config
from podling.cni.cache import Attachment, ResultCache
from podling.cni.plugins import execute
from podling.cni.plugins.find import find_plugin
from podling.cni.types import VERSIONS, Args, CNIError, ConfigError, Result

# Text as JSON can hold it: also halves of surrogate pairs and NUL.
text = st.text() | st.sampled_from(
    ["\ud800", "\0", "..", "a/b", "10.0.0.1/24", "::1", "1.0.0", "bridge", "x" * 5000]
)
numbers = st.integers() | st.floats() | st.sampled_from([1 << 70, float("inf")])
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
versions = st.sampled_from(VERSIONS) | values
plugins = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("bridge") | values,
        "capabilities": st.just({"mac": True}) | values,
        "ipam": values,
        "runtimeConfig": st.just({"mac": "x"}) | values,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": versions,
        "cniVersions": st.lists(versions, max_size=3) | values,
        "name": st.just("net") | values,
        "plugins": st.lists(plugins | values, max_size=3) | values,
        "type": st.just("bridge") | values,
        **dict.fromkeys(("disableCheck", "disableGC", "loadOnlyInlinedPlugins"), st.booleans() | values),
    },
)
DEEP = b'{"a":' * 5_000


@given(
    st.binary(max_size=200) | (documents | values).map(lambda value: json.dumps(value).encode()),
    st.booleans(),
)
@example(DEEP, False)
@example(b"[" * 5_000, True)
def test_a_configuration_is_read_or_refused(content: bytes, is_list: bool):
    path = Path("/none/10.conflist") if is_list else None
    try:
        network = config.parse(content, path=path)
    except ConfigError:
        return
    assert network.cni_version in VERSIONS
    assert config.parse(network.raw).plugins == network.plugins  # as it is cached
    for plugin in network.plugins:
        conf = config.plugin_conf(network, plugin, capability_args={"mac": "y"}, prev_result=None)
        assert (conf["name"], conf["cniVersion"]) == (network.name, network.cni_version)
        with contextlib.suppress(CNIError):
            find_plugin(plugin.type, ["/none"])


results = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": versions,
        "interfaces": st.lists(st.dictionaries(st.sampled_from(["name", "mac", "mtu", "sandbox"]), values))
        | values,
        "ips": st.lists(
            st.fixed_dictionaries(
                {"address": st.just("10.0.0.2/24") | values},
                optional={"gateway": st.just("10.0.0.1") | values, "interface": st.integers(-2, 3) | values},
            )
        )
        | values,
        "routes": st.lists(
            st.fixed_dictionaries({"dst": st.just("0.0.0.0/0") | values}, optional={"mtu": values})
        )
        | values,
        "dns": st.dictionaries(st.sampled_from(["nameservers", "search", "domain"]), values) | values,
        "ip4": st.fixed_dictionaries({"ip": st.just("10.0.0.2/24") | values}, optional={"routes": values})
        | values,
        "code": values,
        "msg": values,
    },
)


@given(results | values, st.sampled_from(VERSIONS))
def test_a_result_is_read_or_refused_and_can_then_be_written(raw: Any, version: str):
    try:
        result = Result.from_json(raw, version)
    except CNIError:
        return
    result.addresses_of("eth0")
    with contextlib.suppress(CNIError):  # some results have no old form
        again = result.to_json(version)
        assert Result.from_json(again).to_json(version) == again


@given(
    st.binary(max_size=200) | (results | values).map(lambda value: json.dumps(value).encode()),
    st.integers(-10, 3),
    st.binary(max_size=50),
)
@example(DEEP, 0, b"")
def test_whatever_a_plugin_prints_is_a_result_or_an_error(stdout: bytes, status: int, stderr: bytes):
    args = Args(
        command="ADD",
        container_id="c1",
        netns="/none",
        ifname="eth0",
        args="",
        path=(),
        conf={"cniVersion": "1.0.0", "name": "net"},
    )
    try:
        result = execute.read_answer("odd", args, status=status, stdout=stdout, stderr=stderr)
    except CNIError:
        return
    assert status == 0
    assert isinstance(result, Result)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100) | st.dictionaries(text, values).map(lambda value: json.dumps(value).encode()))
@example(DEEP)
def test_a_broken_cache_entry_is_as_good_as_none(tmp_path: Path, content: bytes):
    cache = ResultCache(tmp_path)
    (tmp_path / "net-c1-eth0").write_bytes(content)
    assert cache.find("c1", "eth0") == []
    assert cache.all() == []
    cache.save(Attachment(network="net", container_id="c1", ifname="eth0", netns="", config=b"{}"))
    assert len(cache.all()) == 1


@pytest.mark.parametrize("conf", [{"ipam": "x"}, {"dns": []}, {"args": {"cni": 5}}, {"prevResult": "x"}])
def test_what_all_plugins_share_is_checked_for_all(conf: dict[str, Any]):
    from podling.cni.plugins import skel

    args = Args(
        command="ADD",
        container_id="c1",
        netns="/none",
        ifname="eth0",
        args="",
        path=(),
        conf={"cniVersion": "1.0.0", "name": "net"} | conf,
    )
    with pytest.raises(CNIError, match="error unmarshalling network config"):
        skel.check_args(args)
