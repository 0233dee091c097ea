"""One real three-node cluster for all end-to-end tests, and a namespace of its own for each test."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.hand import hand as hand
from e2e.leftovers import leftovers
from podling.testing.cluster import PodlingCluster

NEWEST_KUBECTL = "1.37"
"""What people see differs between versions: tests that compare texts need one of them."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of manifests the README and the demo use."""
    return Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="session")
def images() -> None:
    """The demo's images, built once a machine."""
    subprocess.run(
        [sys.executable, "-m", "podling.cli", "image", "demo"], check=True, stdout=subprocess.DEVNULL
    )


@pytest.fixture(scope="session")
def cluster(images: None) -> Iterator[PodlingCluster]:
    """$PODLING_E2E_NAME lets two people of one machine run these tests at once.

    Whatever the tests did to it: once it is down, nothing of it is left.
    """
    name = os.environ.get("PODLING_E2E_NAME", "e2e")
    before = leftovers(name)
    with PodlingCluster(name, kubectl_version=NEWEST_KUBECTL) as made:
        yield made
    assert leftovers(name) == before


@pytest.fixture
def namespace(cluster: PodlingCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace, named after the test; deleted with all in it afterwards."""
    yield from _namespace(cluster, request.node.originalname)


@pytest.fixture(scope="module")
def module_namespace(cluster: PodlingCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace named after the test file, for pods that its tests share."""
    yield from _namespace(cluster, Path(request.node.path).stem)


def _namespace(cluster: PodlingCluster, test: str) -> Iterator[str]:
    # Numbered: the namespace of a parametrized test's last run may still be on its way out.
    name = f"{test.removeprefix('test_').replace('_', '-')[:40].rstrip('-')}-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
