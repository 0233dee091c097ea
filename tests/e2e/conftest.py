"""One real three-node cluster for all end-to-end tests, and a namespace of its own for each test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podling.testing.cluster import PodlingCluster


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
    with PodlingCluster("e2e") as made:
        yield made


@pytest.fixture
def namespace(cluster: PodlingCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace, named after the test; deleted with all in it afterwards."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].rstrip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
