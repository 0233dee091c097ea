"""Rows of workloads, slices and volumes."""

from datetime import UTC, datetime

from podling.api.tables import columns, row_cells

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
META = {"name": "web", "creationTimestamp": "2025-06-01T11:59:00Z"}
TEMPLATE = {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}}


def cells(kind, **obj):
    found = row_cells(kind, {"kind": kind, "metadata": META, **obj}, NOW)
    assert len(found) == len(columns(kind))
    return found


def headers(kind):
    return [c["name"].upper() for c in columns(kind) if c["priority"] == 0]


def test_deployments_show_how_far_they_are():
    assert headers("Deployment") == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}],
    }
    spec = {"replicas": 3, "selector": selector, "template": TEMPLATE}
    assert cells("Deployment", spec=spec, status={"readyReplicas": 2, "updatedReplicas": 1}) == [
        *("web", "2/3", 1, 0, "60s", "a,b", "x:1,y", "a in (x,y),app=web")
    ]


def test_sets_show_their_numbers():
    for kind, selector in (
        ("ReplicaSet", {"matchLabels": {"app": "web"}}),
        ("ReplicationController", {"app": "web"}),
    ):
        assert headers(kind) == ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]
        row = cells(
            kind, spec={"replicas": 2, "selector": selector, "template": TEMPLATE}, status={"replicas": 1}
        )
        assert row == ["web", 2, 1, 0, "60s", "a,b", "x:1,y", "app=web"]


def test_slices_show_three_addresses():
    ports = [{"name": "", "port": 80}]
    ends = [{"addresses": [f"10.0.0.{i}"]} for i in range(5)]
    row = cells("EndpointSlice", addressType="IPv4", ports=ports, endpoints=ends)
    assert row == ["web", "IPv4", "80", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more...", "60s"]
    assert cells("EndpointSlice", addressType="IPv4")[2:4] == ["<unset>", "<unset>"]


def test_volumes_and_claims():
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": "dev", "name": "data"},
    }
    row = cells("PersistentVolume", spec=spec, status={"phase": "Bound"})
    assert row[:6] == ["web", "1Gi", "RWO,ROX", "Retain", "Bound", "dev/data"]
    row = cells("PersistentVolumeClaim", spec={}, status={"phase": "Pending"})
    assert row[:5] == ["web", "Pending", "", "", ""]
    revision = cells("ControllerRevision", revision=3)
    assert revision[1:3] == ["<none>", 3]
