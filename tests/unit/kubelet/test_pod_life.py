"""Pods from creation to deletion: the kubelet over a runtime in memory and a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from functools import partial

from podling.api import core_v1, meta_v1
from podling.kubelet import names
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import Code, CRIError

from .builders import container
from .conftest import NODE, NodeUnderTest


async def test_the_node_registers_with_a_complete_status(node: NodeUnderTest) -> None:
    found = await node.api.get(core_v1.Node, NODE)
    assert {a.type: a.address for a in found.status.addresses} == {
        "InternalIP": "10.192.0.3",
        "Hostname": NODE,
    }
    assert found.metadata.labels["kubernetes.io/hostname"] == NODE
    ready = next(c for c in found.status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason, ready.message) == (
        "True",
        "KubeletReady",
        "kubelet is posting ready status",
    )
    assert found.status.allocatable["pods"] == "110"


async def test_a_pod_comes_up_with_one_status_write(node: NodeUnderTest) -> None:
    created = await node.create(container("a"), container("b"))
    pod = await node.ready()
    await asyncio.sleep(0.1)
    phases = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            version = created.metadata.resource_version
            async for event in node.api.watch(core_v1.Pod, resource_version=version):
                phases.append(event.object.status.phase)
    assert phases == ["Running"]
    assert pod.status.phase == "Running"
    assert pod.status.pod_ip == "10.244.1.1"
    assert node.runtime.running() == ["a/0", "b/0"]
    assert pod.metadata.uid == created.metadata.uid
    reasons = await _event_reasons(node, "Started", 2)
    assert {"Pulled", "Created", "Started"} <= set(reasons)


async def _event_reasons(node: NodeUnderTest, reason: str, count: int) -> list[str]:
    async def told() -> list[str]:
        reasons = [found for found, _ in await node.events()]
        assert reasons.count(reason) >= count
        return reasons

    return await node.eventually(told)


async def test_a_killed_pause_restarts_all_containers_of_the_same_pod(node: NodeUnderTest) -> None:
    created = await node.create(container("a"), container("b"))
    await node.ready()
    node.runtime.kill_pause()
    started = time.monotonic()

    async def restarted() -> core_v1.Pod:
        pod = await node.get()
        assert [s.restart_count for s in pod.status.container_statuses] == [1, 1]
        assert {c.type: c.status for c in pod.status.conditions}["Ready"] == "True"
        return pod

    pod = await node.eventually(restarted)
    assert time.monotonic() - started < 0.4
    assert pod.metadata.uid == created.metadata.uid
    assert pod.status.pod_ip not in ("10.244.1.1", None)
    assert [ip.ip for ip in pod.status.pod_i_ps] == [pod.status.pod_ip]
    assert node.runtime.running() == ["a/1", "b/1"]
    messages = [m for r, m in await node.events() if r == "SandboxChanged"]
    assert messages in ([], ["Pod sandbox changed, it will be killed and re-created."])


async def test_a_killed_pause_with_a_shared_process_namespace(node: NodeUnderTest) -> None:
    await node.create(container("a"), container("b"), shareProcessNamespace=True)
    await node.ready()
    node.runtime.kill_pause(containers_too=True)
    await node.eventually(lambda: _equal(node.runtime.running(), ["a/1", "b/1"]))


def _equal(found: object, wanted: object) -> None:
    assert found == wanted


async def test_a_sandbox_that_cannot_live_is_held_back(node: NodeUnderTest) -> None:
    await node.create()
    await node.ready()
    started = time.monotonic()
    for attempt in range(1, 6):
        node.runtime.kill_pause()
        await node.eventually(partial(_sandboxes_made, node, attempt + 1))
    assert 0.4 < time.monotonic() - started < 5


def _sandboxes_made(node: NodeUnderTest, count: int) -> None:
    assert node.runtime.calls.count("run_pod_sandbox") == count
    assert any(s.state is cri.PodSandboxState.SANDBOX_READY for s in node.runtime.sandboxes.values())


async def test_a_crashing_container_restarts_once_and_then_backs_off(node: NodeUnderTest) -> None:
    await node.create()
    await node.ready()
    node.runtime.end("main", 1)
    await node.eventually(lambda: _equal(node.runtime.running(), ["main/1"]))
    node.runtime.end("main", 1)

    async def backs_off() -> core_v1.ContainerStatus:
        (main,) = (await node.get()).status.container_statuses
        assert main.state.waiting is not None
        assert main.state.waiting.reason == "CrashLoopBackOff"
        return main

    main = await node.eventually(backs_off)
    assert main.restart_count == 1
    assert main.last_state.terminated.exit_code == 1
    pod = await node.get()
    assert main.state.waiting.message == (
        f"back-off 10s restarting failed container=main pod={names.pod_full(pod)}"
    )
    assert pod.status.phase == "Running"
    await _event_reasons(node, "BackOff", 1)


async def test_a_finished_pod_is_succeeded_and_stays(node: NodeUnderTest) -> None:
    await node.create(restartPolicy="Never")
    await node.ready()
    node.runtime.end("main", 0)
    pod = await node.phase("Succeeded")
    (main,) = pod.status.container_statuses
    assert main.state.terminated.reason == "Completed"
    assert {c.type: c.reason for c in pod.status.conditions}["Ready"] == "PodCompleted"
    assert len(node.runtime.containers) == 1  # kept for its log
    await node.delete()
    await node.gone()
    await node.eventually(lambda: _equal((node.runtime.sandboxes, node.runtime.containers), ({}, {})))


async def test_a_failed_pod_says_so(node: NodeUnderTest) -> None:
    await node.create(container("a"), container("b"), restartPolicy="Never")
    await node.ready()
    node.runtime.end("a", 2)
    node.runtime.end("b", 0)
    pod = await node.phase("Failed")
    assert [s.state.terminated.exit_code for s in pod.status.container_statuses] == [2, 0]


async def test_deletion_stops_everything_and_removes_the_pod(node: NodeUnderTest) -> None:
    created = await node.create(volumes=[{"name": "tmp", "emptyDir": {}}])
    await node.ready()
    directory = names.pod_dir(node.config, names.pod_uid(created))
    assert directory.is_dir()
    await node.delete()
    await node.gone()
    assert node.runtime.running() == []
    await node.eventually(lambda: _equal((node.runtime.sandboxes, directory.exists()), ({}, False)))
    await _event_reasons(node, "Killing", 1)


async def test_a_shorter_grace_period_cuts_the_first_one_short(node: NodeUnderTest) -> None:
    node.runtime.ignores_sigterm.add("main")
    await node.create(terminationGracePeriodSeconds=60)
    await node.ready()
    await node.delete()

    def stopping() -> None:
        assert "stop_container" in node.runtime.calls

    await node.eventually(stopping)
    started = time.monotonic()
    await node.delete(grace_period_s=1)
    await node.gone()
    assert time.monotonic() - started < 3


async def test_a_pod_deleted_by_force_is_ended_too(node: NodeUnderTest) -> None:
    await node.create()
    await node.ready()
    await node.delete(grace_period_s=0)
    await node.gone()
    await node.eventually(lambda: _equal((node.runtime.sandboxes, node.runtime.containers), ({}, {})))


async def test_a_namesake_created_at_once_gets_its_own_sandbox(node: NodeUnderTest) -> None:
    first = await node.create()
    await node.ready()
    await node.delete(grace_period_s=0)
    second = await node.create()
    pod = await node.ready()
    assert pod.metadata.uid == second.metadata.uid != first.metadata.uid
    await node.eventually(lambda: _equal(len(node.runtime.sandboxes), 1))


async def test_a_restarted_kubelet_adopts_what_runs(node: NodeUnderTest) -> None:
    await node.create(container("a"), container("b"))
    before = await node.ready()
    await node.kill()
    calls = len(node.runtime.calls)
    await node.start()
    await asyncio.sleep(0.2)
    assert node.runtime.calls[calls:] == []
    after = await node.get()
    assert after.status == before.status


async def test_what_happened_while_the_kubelet_was_away_is_made_good(node: NodeUnderTest) -> None:
    await node.create(name="deleted")
    await node.create(name="forced")
    await node.create(name="crashed")
    for name in ("deleted", "forced", "crashed"):
        await node.ready(name)
    await node.kill()
    await node.delete("deleted")
    await node.delete("forced", grace_period_s=0)
    crashed = await node.get("crashed")
    for sandbox_id, status in list(node.runtime.containers.values()):
        if node.runtime.sandboxes[sandbox_id].metadata.uid == crashed.metadata.uid:
            node.runtime._end(status.id, 9)
    await node.start()
    await node.gone("deleted")
    await node.eventually(lambda: _equal(len(node.runtime.sandboxes), 1))
    await node.eventually(lambda: _equal(node.runtime.running(), ["main/1"]))


async def test_a_lost_event_stream_is_made_up_for(node: NodeUnderTest) -> None:
    await node.create()
    await node.ready()
    node.runtime.lose_stream()
    node.runtime.end("main", 1)
    await node.eventually(lambda: _equal(node.runtime.running(), ["main/1"]))


async def test_an_image_that_cannot_be_pulled_is_told_and_backs_off(node: NodeUnderTest) -> None:
    node.runtime.fail("pull_image", *[CRIError(Code.UNKNOWN, "no such host")] * 9)
    await node.create({**container(), "image": "example.com/nothing:1"})

    async def told() -> None:
        (main,) = (await node.get()).status.container_statuses
        assert main.state.waiting.reason == "ErrImagePull"
        assert main.state.waiting.message == "no such host"

    await node.eventually(told)
    texts = [
        'Pulling image "example.com/nothing:1"',
        'Failed to pull image "example.com/nothing:1": no such host',
        "Error: ErrImagePull",
    ]

    async def events() -> None:
        messages = [message for _, message in await node.events()]
        assert all(text in messages for text in texts)

    await node.eventually(events)

    async def backs_off() -> None:
        (main,) = (await node.get()).status.container_statuses
        assert main.state.waiting.reason == "ImagePullBackOff"
        assert main.state.waiting.message == (
            'Back-off pulling image "example.com/nothing:1": ErrImagePull: no such host'
        )

    await node.eventually(backs_off)
    await node.delete()
    await node.gone()


def docker_secret(name: str, key: str, pair: str) -> core_v1.Secret:
    auths = {key: {"auth": base64.b64encode(pair.encode()).decode()}}
    data = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return core_v1.Secret(
        metadata=meta_v1.ObjectMeta(name=name, namespace="default"),
        type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": data},
    )


async def test_image_pull_secrets_are_tried_until_one_is_let_in(node: NodeUnderTest) -> None:
    await node.api.create(docker_secret("wrong", "registry.example.com/team", "one:a"))
    await node.api.create(docker_secret("right", "registry.example.com", "two:b"))
    await node.api.create(docker_secret("other", "other.example.com", "three:c"))
    node.runtime.fail("pull_image", CRIError(Code.UNKNOWN, "denied"))
    secrets = [{"name": name} for name in ("right", "nosuch", "other", "wrong")]
    await node.create({**container(), "image": "registry.example.com/team/app:1"}, imagePullSecrets=secrets)
    await node.ready()
    assert [(auth.username, auth.password) for auth in node.runtime.pulled_with] == [
        ("one", "a"),
        ("two", "b"),
    ]

    async def told() -> None:
        assert (
            "FailedToRetrieveImagePullSecret",
            "Unable to retrieve some image pull secrets (nosuch); attempting to pull the image may not "
            "succeed.",
        ) in await node.events()

    await node.eventually(told)


async def test_the_runtimes_code_is_told_where_it_says_something(node: NodeUnderTest) -> None:
    failures = [CRIError(Code.NOT_FOUND, "no tag"), CRIError(Code.UNKNOWN, "RegistryUnavailable: down")]
    node.runtime.fail("pull_image", *failures)
    await node.create({**container(), "image": "example.com/nothing:1"})

    async def told() -> None:
        assert (
            "Failed",
            'Failed to pull image "example.com/nothing:1": rpc error: code = NotFound desc = no tag',
        ) in await node.events()

    await node.eventually(told)
    await node.delete()
    await node.gone()
    await node.create({**container(), "image": "example.com/nothing:1"}, name="second")

    async def unavailable() -> None:
        (main,) = (await node.get("second")).status.container_statuses
        assert main.state.waiting.reason == "RegistryUnavailable"
        assert main.state.waiting.message == (
            "image pull failed for example.com/nothing:1 because the registry is unavailable: down"
        )

    await node.eventually(unavailable)


async def test_an_image_that_must_not_be_pulled(node: NodeUnderTest) -> None:
    await node.create({**container(), "image": "absent:1", "imagePullPolicy": "Never"})

    async def told() -> None:
        (main,) = (await node.get()).status.container_statuses
        assert main.state.waiting.reason == "ErrImageNeverPull"
        assert main.state.waiting.message == (
            'Container image "absent:1" is not present with pull policy of Never'
        )

    await node.eventually(told)


async def test_a_sandbox_that_cannot_be_made_is_tried_again(node: NodeUnderTest) -> None:
    node.runtime.fail("run_pod_sandbox", CRIError(Code.UNKNOWN, "cni plugin not initialized"))
    await node.create()
    await node.ready()

    async def told() -> None:
        wanted = "Failed to create pod sandbox: cni plugin not initialized"
        assert ("FailedCreatePodSandBox", wanted) in await node.events()

    await node.eventually(told)


async def test_a_missing_config_map_is_named_and_waited_for(node: NodeUnderTest) -> None:
    reference = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x"}}}
    await node.create(container(env=[reference]))

    async def told() -> None:
        (main,) = (await node.get()).status.container_statuses
        assert main.state.waiting.reason == "CreateContainerConfigError"
        assert main.state.waiting.message == 'configmap "settings" not found'

    await node.eventually(told)
    await node.api.create(
        core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="settings"), data={"x": "42"}), "default"
    )
    await node.ready()
    (config,) = node.runtime.configs.values()
    assert next(e.value for e in config.envs if e.key == "X") == b"42"


async def test_a_missing_volume_source_is_a_failed_mount(node: NodeUnderTest) -> None:
    volume = {"name": "cfg", "configMap": {"name": "settings"}}
    await node.create(container(volumeMounts=[{"name": "cfg", "mountPath": "/cfg"}]), volumes=[volume])

    async def told() -> None:
        wanted = 'MountVolume.SetUp failed for volume "cfg" : configmap "settings" not found'
        assert ("FailedMount", wanted) in await node.events()

    await node.eventually(told)
    await node.api.create(
        core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name="settings"), data={"x": "42"}), "default"
    )
    pod = await node.ready()
    path = names.volume_dir(node.config, names.pod_uid(pod), "configmap", "cfg")
    assert (path / "x").read_text() == "42"


async def test_a_container_that_cannot_be_created_says_why(node: NodeUnderTest) -> None:
    text = 'exec: "nope": executable file not found in $PATH'
    node.runtime.fail("create_container", CRIError(Code.UNKNOWN, text))
    await node.create()
    await node.ready()
    await node.eventually(lambda: _said(node, "Failed", f"Error: {text}"))


async def _said(node: NodeUnderTest, reason: str, message: str) -> None:
    assert (reason, message) in await node.events()


async def test_init_containers_run_in_order_before_the_rest(node: NodeUnderTest) -> None:
    await node.create(initContainers=[container("one"), container("two")])
    await node.eventually(lambda: _equal(node.runtime.running(), ["one/0"]))
    node.runtime.end("one", 0)
    await node.eventually(lambda: _equal(node.runtime.running(), ["two/0"]))
    node.runtime.end("two", 0)
    pod = await node.ready()
    assert node.runtime.running() == ["main/0"]
    assert [s.state.terminated.exit_code for s in pod.status.init_container_statuses] == [0, 0]


async def test_a_pod_too_large_for_the_node_is_refused(node: NodeUnderTest) -> None:
    await node.create(container(resources={"requests": {"cpu": "1000"}}))
    pod = await node.phase("Failed")
    assert pod.status.reason == "OutOfcpu"
    assert pod.status.message.startswith(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: "
    )
    assert node.runtime.calls == []


async def test_an_active_deadline_ends_the_pod(node: NodeUnderTest) -> None:
    await node.create(activeDeadlineSeconds=2)  # startTime has whole seconds
    await node.ready()
    pod = await node.phase("Failed")
    assert pod.status.reason == "DeadlineExceeded"
    assert node.runtime.running() == []


async def test_readiness_follows_the_probe(node: NodeUnderTest) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    await node.create(container(readinessProbe=probe))
    pod = await node.phase("Running")
    assert not pod.status.container_statuses[0].ready
    await node.eventually(lambda: _said(node, "Unhealthy", "Readiness probe failed: "))


async def test_a_failed_liveness_probe_restarts_the_container(node: NodeUnderTest) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.create(container(livenessProbe=probe))

    async def restarted() -> None:  # and, on a slow machine, perhaps more than once
        assert (await node.get()).status.container_statuses[0].restart_count

    await node.eventually(restarted)
    text = "Container main failed liveness probe, will be restarted"
    await node.eventually(lambda: _said(node, "Killing", text))


async def test_hooks_run(node: NodeUnderTest) -> None:
    good = {"exec": {"command": ["true"]}}
    await node.create(container(lifecycle={"postStart": good, "preStop": good}))
    await node.ready()
    assert node.runtime.calls.count("exec_sync") == 1
    await node.delete()
    await node.gone()
    assert node.runtime.calls.count("exec_sync") == 2


async def test_many_pods_at_once(node: NodeUnderTest) -> None:
    started = time.monotonic()
    for index in range(30):
        await node.create(name=f"p{index}")
    for index in range(30):
        await node.ready(f"p{index}")
    assert time.monotonic() - started < 10
