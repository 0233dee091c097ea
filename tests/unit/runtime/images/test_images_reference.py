from __future__ import annotations

import pytest

from podling.runtime.images.errors import InvalidReferenceError
from podling.runtime.images.reference import parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
    ],
)
def test_short_names_have_one_complete_form(short: str, full: str) -> None:
    assert str(parse_reference(short)) == full
    assert str(parse_reference(full)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "a:",
        "a b",
        "-a",
        "a//b",
        "a/",
        "/a",
        "a:b:c/",
        "a@sha256:12",
        "a@md5:00",
        "ab" * 32,
        "a" * 300,
        "a\n",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError, match="failed to parse image reference"):
        parse_reference(text)


def test_upper_case_is_named_as_the_fault() -> None:
    with pytest.raises(InvalidReferenceError, match="repository name must be lowercase"):
        parse_reference("docker.io/library/BusyBox")


def test_familiar_names_are_short() -> None:
    assert parse_reference("busybox").familiar_repository == "busybox"
    assert parse_reference("team/app").familiar_repository == "team/app"
    assert parse_reference("quay.io/a/b").familiar_repository == "quay.io/a/b"
