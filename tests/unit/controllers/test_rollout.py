"""The arithmetic of rollouts, step by step; with the replica sets' controller played in one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from podling.api.apps_v1 import Deployment, ReplicaSet
from podling.controllers import rollout
from podling.controllers.deployment_status import get_condition, is_complete, rolled

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def template(image: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "web", **labels}}, "spec": {"containers": [{"image": image}]}}


def deployment(replicas: int, *, surge: Any = "25%", unavailable: Any = "25%", **fields: Any) -> Deployment:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return msgspec.convert(
        {
            "metadata": {"name": "web", "generation": 1, **fields.pop("metadata", {})},
            "spec": {
                "replicas": replicas,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                "template": template("web:1"),
                **fields.pop("spec", {}),
            },
            **fields,
        },
        Deployment,
    )


def replica_set(
    name: str,
    replicas: int,
    available: int | None = None,
    *,
    age: int = 0,
    image: str = "web:0",
    **notes: str,
) -> ReplicaSet:
    there = replicas if available is None else available
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "annotations": {key.replace("_", "-"): value for key, value in notes.items()},
                "creationTimestamp": f"2026-01-01T00:00:{59 - age:02}Z",
            },
            "spec": {"replicas": replicas, "template": template(image, **{"pod-template-hash": name})},
            "status": {"replicas": replicas, "readyReplicas": there, "availableReplicas": there},
        },
        ReplicaSet,
    )


def annotated(rs: ReplicaSet, desired: int, most: int) -> ReplicaSet:
    rs.metadata.annotations |= {rollout.DESIRED: str(desired), rollout.MAX_REPLICAS: str(most)}
    return rs


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (3, 0, 1, (0, 1)),
        (1, "0%", "10%", (0, 1)),  # both round to nothing
        (2, 0, 5, (0, 2)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_surge_rounds_up_and_unavailable_down(
    replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]
) -> None:
    assert rollout.fenceposts(deployment(replicas, surge=surge, unavailable=unavailable)) == expected


def test_the_template_decides_which_replica_set_is_new() -> None:
    old, new, twin = (
        replica_set("a", 1, age=9),
        replica_set("b", 1, age=5, image="web:1"),
        replica_set("c", 1, image="web:1"),
    )
    assert rollout.find_new(deployment(1), [twin, old, new]) is new
    assert rollout.find_new(deployment(1), [old]) is None


def test_the_hash_follows_the_template_and_the_collisions() -> None:
    one, two = deployment(1).spec, deployment(1, spec={"template": template("web:2")}).spec
    assert one is not None
    assert two is not None
    assert one.template is not None
    assert two.template is not None
    hashes = [rollout.template_hash(one.template, 0), rollout.template_hash(two.template, 0)]
    assert hashes[0] == rollout.template_hash(one.template, 0)
    assert len({*hashes, rollout.template_hash(one.template, 1)}) == 3


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable"),
    [(1, 1, 0), (3, 1, 0), (3, 0, 1), (4, "25%", "25%"), (10, "100%", 0), (7, 2, 3), (5, 0, "100%")],
)
def test_a_rollout_ends_and_keeps_within_its_limits(replicas: int, surge: Any, unavailable: Any) -> None:
    wanted = deployment(replicas, surge=surge, unavailable=unavailable)
    most_more, most_less = rollout.fenceposts(wanted)
    old, new = replica_set("old", replicas, age=9), replica_set("new", 0, image="web:1")
    for _ in range(50):
        sizes = {"new": rollout.new_size(wanted, [old, new], rollout.replicas(new))}
        if sizes["new"] == rollout.replicas(new):
            sizes = rollout.shrink_old(wanted, new, [old])
        if not sizes:
            break
        # The smaller size takes effect at once, pods of the larger one are not available yet.
        old = replica_set("old", sizes.get("old", rollout.replicas(old)), age=9)
        before = rollout.available(new)
        new = replica_set("new", sizes.get("new", rollout.replicas(new)), before, image="web:1")
        assert rollout.replicas(old) + rollout.replicas(new) <= replicas + most_more
        assert rollout.available(old) + rollout.available(new) >= replicas - most_less
        new = replica_set("new", rollout.replicas(new), image="web:1")
    assert (rollout.replicas(old), rollout.replicas(new)) == (0, replicas)


def test_pods_that_never_became_ready_go_first_and_none_that_is() -> None:
    wanted = deployment(4)
    fine, broken = replica_set("fine", 3, age=9), replica_set("broken", 2, 0, age=5)
    assert rollout.shrink_old(wanted, None, [fine, broken]) == {"broken": 0}
    stuck = replica_set("new", 2, 0, image="web:1")
    assert rollout.shrink_old(wanted, stuck, [fine]) == {}


def test_scaling_in_the_middle_of_a_rollout_is_in_proportion() -> None:
    wanted = deployment(20, surge=3, unavailable=2)
    old = annotated(replica_set("old", 8, age=9), 10, 13)
    new = annotated(replica_set("new", 5, 0, image="web:1"), 10, 13)
    assert rollout.was_scaled(wanted, [old, new])
    sizes = rollout.scale_sizes(wanted, new, [old])
    assert sizes == {"old": 14, "new": 9}
    assert sum(sizes.values()) == 23
    assert rollout.scale_sizes(deployment(0), new, [old]) == {"old": 0, "new": 0}


def test_scaling_a_finished_deployment_is_its_one_replica_set() -> None:
    new = annotated(replica_set("new", 2, image="web:1"), 2, 3)
    assert not rollout.was_scaled(deployment(2), [new])
    assert rollout.scale_sizes(deployment(7), new, [replica_set("old", 0)]) == {"new": 7}


def test_annotations_carry_the_revision_and_its_history() -> None:
    noted = deployment(
        2, metadata={"annotations": {"why": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}
    )
    made = rollout.set_annotations(noted, {}, 1, exists=False)
    assert made == {"why": "x", rollout.REVISION: "1", rollout.DESIRED: "2", rollout.MAX_REPLICAS: "3"}
    back = rollout.set_annotations(noted, made, 3, exists=True)
    assert (back[rollout.REVISION], back[rollout.REVISION_HISTORY]) == ("3", "1")
    assert rollout.set_annotations(noted, back, 5, exists=True)[rollout.REVISION_HISTORY] == "1,3"
    assert rollout.set_annotations(noted, back, 2, exists=True)[rollout.REVISION] == "3"


def test_only_empty_revisions_beyond_the_limit_are_forgotten() -> None:
    old = []
    for number, size in ((1, 0), (2, 1), (3, 0), (4, 0)):
        rs = replica_set(f"r{number}", size)
        rs.metadata.annotations[rollout.REVISION] = str(number)
        old.append(rs)
    names = [
        rs.metadata.name for rs in rollout.to_forget(deployment(1, spec={"revisionHistoryLimit": 1}), old)
    ]
    assert names == ["r1", "r3"]


# The status


def conditions(status: Any) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


def test_a_rollout_is_created_progresses_and_completes() -> None:
    wanted = deployment(2, spec={"progressDeadlineSeconds": 60})
    new = replica_set("new", 2, 0, image="web:1")
    new.status = None
    status = rolled(wanted, [new], new, NOW, created=True)
    assert conditions(status) == {
        "Available": ("False", "MinimumReplicasUnavailable"),
        "Progressing": ("True", "NewReplicaSetCreated"),
    }
    wanted.status = status
    status = rolled(wanted, [half := replica_set("new", 2, 1, image="web:1")], half, NOW)
    assert conditions(status)["Progressing"] == ("True", "ReplicaSetUpdated")
    assert status.unavailable_replicas == 1
    wanted.status = status
    status = rolled(wanted, [done := replica_set("new", 2, image="web:1")], done, NOW)
    assert conditions(status) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    assert is_complete(wanted, status)
    found = get_condition(status, "Progressing")
    assert found is not None
    assert found.message == 'ReplicaSet "new" has successfully progressed.'


def test_a_rollout_without_a_step_runs_out_of_time() -> None:
    wanted = deployment(1, spec={"progressDeadlineSeconds": 60})
    new = replica_set("new", 1, 0, image="web:1")
    wanted.status = rolled(wanted, [new], new, NOW, created=True)
    wanted.status = rolled(wanted, [new], new, NOW)
    early = rolled(wanted, [new], new, NOW + timedelta(seconds=59))
    assert conditions(early)["Progressing"][0] == "True"
    late = rolled(wanted, [new], new, NOW + timedelta(seconds=61))
    assert conditions(late)["Progressing"] == ("False", "ProgressDeadlineExceeded")


def test_time_does_not_run_while_paused() -> None:
    wanted = deployment(1, spec={"progressDeadlineSeconds": 60})
    new = replica_set("new", 1, 0, image="web:1")
    wanted.status = rolled(wanted, [new], new, NOW, created=True)
    assert wanted.spec is not None
    wanted.spec.paused = True
    wanted.status = rolled(wanted, [new], new, NOW + timedelta(seconds=10))
    assert conditions(wanted.status)["Progressing"] == ("Unknown", "DeploymentPaused")
    wanted.spec.paused = False
    wanted.status = rolled(wanted, [new], new, NOW + timedelta(seconds=300))
    assert conditions(wanted.status)["Progressing"] == ("Unknown", "DeploymentResumed")
    late = rolled(wanted, [new], new, NOW + timedelta(seconds=361))
    assert conditions(late)["Progressing"] == ("False", "ProgressDeadlineExceeded")


def test_what_keeps_pods_from_being_made_is_told() -> None:
    wanted = deployment(1)
    new = replica_set("new", 1, 0, image="web:1")
    assert new.status is not None
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}
    new.status = msgspec.convert({"replicas": 0, "conditions": [failure]}, type(new.status))
    assert conditions(rolled(wanted, [new], new, NOW))["ReplicaFailure"] == ("True", "FailedCreate")
