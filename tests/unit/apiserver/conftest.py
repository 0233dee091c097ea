"""Fixtures of the API server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from podling.apiserver.bootstrap import bootstrap
from podling.apiserver.cluster import Cluster
from podling.apiserver.clusterip import ServiceAllocator
from podling.apiserver.config import APIServerConfig
from podling.apiserver.kubelets import Kubelets
from podling.apiserver.rbac.bindings import Bindings
from podling.apiserver.resources import by_path
from podling.store.sqlite import SqliteStore
from unit.apiserver.harness import API


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[API]:
    nowhere = tmp_path / "none"
    config = APIServerConfig(
        bind_address="127.0.0.1",
        advertise_address=IPv4Address("127.0.0.1"),
        tls_cert=nowhere,
        tls_key=nowhere,
        client_ca=nowhere,
        store_path=tmp_path / "store.db",
        service_cidr=IPv4Network("10.96.0.0/16"),
        pod_cidr=IPv4Network("10.244.0.0/16"),
    )
    store = SqliteStore(config.store_path)
    await store.open()
    cluster = Cluster(
        config=config,
        store=store,
        resources=by_path(),
        services=ServiceAllocator(config.service_cidr),
        kubelets=Kubelets(config),
        bindings=Bindings(store),
    )
    await bootstrap(cluster, 6443)
    yield API(cluster)
    await store.close()
