from __future__ import annotations

from pathlib import Path

import pytest

from kernel.net_local import Namespaces, namespaces
from podling.linux import nft
from podling.linux.netns import run_in_netns

__all__ = ["namespaces"]

RULESET = """\
add table inet t
add chain inet t c
add rule inet t c ip saddr 10.0.0.1 accept comment "mine"
"""


@pytest.fixture(params=["library", "program"])
def node(request: pytest.FixtureRequest, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "program":
        monkeypatch.setattr(nft, "_library", [None])  # as on a machine without libnftables
    return namespaces.make("node")


def test_a_ruleset_is_applied_listed_and_changed(node: Path):
    run_in_netns(node, nft.run, RULESET)
    (rule,) = nft.parse_rules(run_in_netns(node, nft.list_table, "inet", "t"))
    assert (rule.text, rule.comment) == ("ip saddr 10.0.0.1 accept", "mine")
    run_in_netns(node, nft.run, f"delete rule inet t c handle {rule.handle}\n")
    assert nft.parse_rules(run_in_netns(node, nft.list_table, "inet", "t")) == []


def test_it_is_all_or_nothing(node: Path):
    with pytest.raises(nft.NFTError):
        run_in_netns(node, nft.run, RULESET + "add rule inet t nochain accept\n")
    assert run_in_netns(node, nft.list_table, "inet", "t") == ""


def test_errors_say_what_nft_says(node: Path):
    with pytest.raises(nft.NFTNotFound, match="No such file or directory"):
        run_in_netns(node, nft.run, "delete table inet nope\n")
    with pytest.raises(nft.NFTError, match="syntax error"):
        run_in_netns(node, nft.run, "add banana\n")


def test_rules_stay_in_their_namespace(node: Path, namespaces: Namespaces):
    other = namespaces.make("other")
    run_in_netns(node, nft.run, RULESET)
    assert run_in_netns(other, nft.list_table, "inet", "t") == ""


def test_without_library_and_program_one_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nft, "_library", [None])
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(nft.NFTError, match=r"neither .* is installed; install the package nftables"):
        nft.run("list tables\n")
