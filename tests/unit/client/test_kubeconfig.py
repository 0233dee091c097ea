from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest
import yaml

from podling.client import kubeconfig
from podling.client.kubeconfig import KubeconfigError

CLUSTER = {"server": "https://10.192.0.2:6443", "certificate-authority-data": "Q0E="}
USER = {"client-certificate-data": "Q0VSVA==", "client-key-data": "S0VZ"}

WORK = """\
apiVersion: v1
kind: Config
extensions: [{name: mine, extension: {keep: me}}]
current-context: work
clusters:
- name: work
  cluster: {server: "https://work.example:6443", extensions: [{name: x}]}
contexts:
- name: work
  context: {cluster: work, user: work, namespace: team}
users:
- name: work
  user: {token: secret, colour: blue}
"""


def test_merge_into_nothing_makes_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / ".kube" / "config"
    kubeconfig.merge_context(path, "podling-a", CLUSTER, USER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == ["config"]
    config = kubeconfig.client_config(path)
    assert config.server == "https://10.192.0.2:6443"
    assert (config.ca_data, config.cert_data, config.key_data) == (b"CA", b"CERT", b"KEY")


def test_merge_and_remove_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(WORK)
    kubeconfig.merge_context(path, "podling-a", CLUSTER, USER)
    merged = kubeconfig.load(path)
    assert merged["current-context"] == "podling-a"
    assert [u["name"] for u in merged["users"]] == ["work", "podling-a"]
    assert kubeconfig.remove_context(path, "podling-a")
    assert kubeconfig.load(path) == {**yaml.safe_load(WORK), "current-context": ""}


def test_merge_again_replaces_its_own_entries_only(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(WORK)
    for port in (1, 2):
        kubeconfig.merge_context(path, "podling-a", {"server": f"https://10.192.0.2:{port}"}, USER)
    assert [c["cluster"]["server"] for c in kubeconfig.load(path)["clusters"]] == [
        "https://work.example:6443",
        "https://10.192.0.2:2",
    ]


def test_remove_keeps_another_current_context(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(WORK)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert not kubeconfig.remove_context(path, "podling-a")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert not kubeconfig.remove_context(tmp_path / "absent", "podling-a")


@pytest.mark.parametrize("text", ["{", "- a", "kind: Pod", "clusters: text", "users: [text]"])
def test_a_file_that_is_no_kubeconfig_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError):
        kubeconfig.merge_context(path, "podling-a", CLUSTER, USER)
    assert path.read_text() == text
    assert os.listdir(tmp_path) == ["config"]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "config"
    real.write_text(WORK)
    link.symlink_to(real)
    kubeconfig.merge_context(link, "podling-a", CLUSTER, USER)
    assert link.is_symlink()
    assert kubeconfig.load(real)["current-context"] == "podling-a"


def test_another_programs_lock_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "LOCK_WAIT_S", 0.05)
    (tmp_path / "config.lock").touch()
    with pytest.raises(KubeconfigError, match=r"config\.lock exists: another program.*remove that file"):
        kubeconfig.merge_context(tmp_path / "config", "podling-a", CLUSTER, USER)


def test_the_lock_of_a_killed_podling_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "config.lock"
    lock.write_bytes(kubeconfig._OURS)
    kubeconfig.merge_context(tmp_path / "config", "podling-a", CLUSTER, USER)
    assert not lock.exists()
    # The same of one that lives, and so holds it:
    monkeypatch.setattr(kubeconfig, "LOCK_WAIT_S", 0.05)
    lock.write_bytes(kubeconfig._OURS)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KubeconfigError, match="another program"):
            kubeconfig.merge_context(tmp_path / "config", "podling-a", CLUSTER, USER)


def test_client_config_reads_files_relative_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        "clusters: [{name: c, cluster: {server: 'https://h', certificate-authority: pki/ca.crt}}]\n"
        "users: [{name: u, user: {client-certificate: /abs/u.crt, client-key: u.key}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\n"
    )
    config = kubeconfig.client_config(path, "x")
    assert config.ca_file == tmp_path / "pki/ca.crt"
    assert (config.cert_file, config.key_file) == (Path("/abs/u.crt"), tmp_path / "u.key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no current context"),
        ("current-context: x", "has no context 'x'"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]", "has no cluster 'c'"),
        (WORK.replace("token: secret", "exec: {command: aws}"), "authenticates by exec"),
        (
            WORK.replace("token: secret", "client-key-data: '%%%'"),
            "client-key-data is not base64",
        ),
        (WORK.replace("server:", "sever:"), "has no server"),
    ],
)
def test_client_config_says_what_is_missing(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=message):
        kubeconfig.client_config(path)


def test_default_path_is_chosen_as_kind_does(tmp_path: Path) -> None:
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.touch()
    assert kubeconfig.default_path({"HOME": "/home/me"}) == Path("/home/me/.kube/config")
    assert kubeconfig.default_path({"KUBECONFIG": f"{absent}:{there}"}) == there
    assert kubeconfig.default_path({"KUBECONFIG": f"{there}2:{absent}"}) == absent
