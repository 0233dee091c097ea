from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from podling.api import core_v1, meta_v1
from podling.kubelet.keyring import Credentials, Keyring, KeyringError, read_node_config


def entry(user: str, password: str = "p") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def secret(content: object, type_: str = "kubernetes.io/dockerconfigjson") -> core_v1.Secret:
    field = ".dockercfg" if type_.endswith("dockercfg") else ".dockerconfigjson"
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return core_v1.Secret(
        metadata=meta_v1.ObjectMeta(name="s", namespace="ns"),
        type=type_,
        data={field: base64.b64encode(raw).decode()},
    )


def users(auths: dict[str, dict[str, str]], repository: str) -> list[str]:
    keyring = Keyring()
    keyring.add_secret(secret({"auths": auths}))
    return [one.username for one in keyring.lookup(repository)]


@pytest.mark.parametrize(
    ("key", "repository", "fits"),
    [
        ("registry.example.com", "registry.example.com/team/app", True),
        ("https://registry.example.com", "registry.example.com/app", True),
        ("http://registry.example.com/v1/", "registry.example.com/app", True),
        ("registry.example.com/v2/", "registry.example.com/app", True),
        ("registry.example.com/team", "registry.example.com/team/app", True),
        ("registry.example.com/team", "registry.example.com/other/app", False),
        ("*.example.com", "registry.example.com/app", True),
        ("*.example.com", "a.registry.example.com/app", False),
        ("*.*.example.com", "a.registry.example.com/app", True),
        ("reg[a-i]stry.example.com", "registry.example.com/app", True),
        ("registry.example.com", "registry.example.com:5000/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("https://index.docker.io/v1/", "docker.io/library/nginx", True),
        ("index.docker.io", "docker.io/library/nginx", True),
        ("docker.io", "docker.io/library/nginx", True),
        ("index.docker.io", "registry.example.com/app", False),
        ("localhost:5000", "localhost:5000/app", True),
    ],
)
def test_which_keys_fit_an_image(key: str, repository: str, fits: bool) -> None:
    assert users({key: entry("me")}, repository) == (["me"] if fits else [])


def test_the_more_specific_comes_first() -> None:
    auths = {
        "registry.example.com": entry("host"),
        "*.example.com": entry("glob"),
        "registry.example.com/team/app": entry("app"),
        "registry.example.com/team": entry("team"),
    }
    assert users(auths, "registry.example.com/team/app") == ["app", "team", "host", "glob"]


def test_the_old_form_and_plain_fields() -> None:
    keyring = Keyring()
    auths = {"a.example.com": {"username": "me", "password": "pw", "email": "x"}}
    keyring.add_secret(secret(auths, "kubernetes.io/dockercfg"))
    assert keyring.lookup("a.example.com/app") == [Credentials(username="me", password="pw")]
    assert "pw" not in repr(keyring.lookup("a.example.com/app"))


def test_other_secrets_say_nothing() -> None:
    keyring = Keyring()
    keyring.add_secret(secret({"auths": {"a.example.com": entry("me")}}, "Opaque"))
    assert keyring.lookup("a.example.com/app") == []


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"auths": 5}', {"auths": {"a": {"auth": "secret!"}}}, {"auths": {"a": {"auth": "c2VjcmV0"}}}],
)
def test_a_broken_secret_is_named_and_not_quoted(content: object) -> None:
    with pytest.raises(KeyringError) as caught:
        Keyring().add_secret(secret(content))
    assert str(caught.value) == "secret ns/s is not a valid Docker configuration"


def test_the_nodes_own_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a.example.com": entry("node")}}))
    (tmp_path / ".dockercfg").write_text(json.dumps({"a.example.com": entry("unused")}))
    keyring = Keyring()
    keyring.add_secret(secret({"auths": {"a.example.com": entry("pod")}}))
    read_node_config(keyring, tmp_path)
    assert [one.username for one in keyring.lookup("a.example.com/app")] == ["pod", "node"]
