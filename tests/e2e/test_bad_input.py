"""What users get wrong and what they are told: the words of kubectl, kubelet and kind, and nothing half-made.

Every pod that cannot start must still go away when it is deleted.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.shorthand import container_status, events, gone, inside, ready, wait_event
from podling.machine.kubectl import kubectl_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

MIB = 1 << 20


def refuse(cluster: PodlingCluster, *args: str, input: str | None = None) -> str:
    """What kubectl says on standard error when it fails, as it must."""
    done = cluster.kubectl_run(*args, input=input)
    assert done.returncode == 1, f"{args} did not fail: {done.stdout}{done.stderr}"
    return done.stderr


def refuse_pod(cluster: PodlingCluster, namespace: str, manifest: dict[str, Any], *args: str) -> str:
    """The same for `kubectl create` of a pod; none is made."""
    text = refuse(cluster, "create", "-n", namespace, "-f", "-", *args, input=json.dumps(manifest))
    assert cluster.get("pods", "-n", namespace)["items"] == []
    return text


def waiting(cluster: PodlingCluster, namespace: str, name: str, reason: str) -> str:
    """The message of the container `main`, once it waits for this reason."""

    def look() -> str:
        status = container_status(cluster, namespace, name, "main")
        found = status.get("state", {}).get("waiting", {})
        assert found.get("reason") == reason, status
        return str(found.get("message", ""))

    return eventually(look)


def status_column(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return cluster.kubectl("get", "pod", name, "-n", namespace, "--no-headers").split()[2]


# What is not even a request


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "kind: Pod\nspec: {a: [",
            "error parsing STDIN: error converting YAML to JSON: yaml: ",
        ),
        ('{"apiVersion": "v1", "kind": "Pod", ', "error parsing STDIN: unexpected EOF"),
        ("just a line of text", "invalid object to validate"),
        ("metadata: {name: a}", "apiVersion not set, kind not set"),
        ("", "no objects passed to create"),
    ],
    ids=["yaml", "json", "text", "no-kind", "empty"],
)
def test_what_cannot_be_parsed_is_refused_by_kubectl(cluster: PodlingCluster, text: str, words: str) -> None:
    assert words in refuse(cluster, "create", "-f", "-", input=text)


@pytest.mark.parametrize(
    ("version", "kind"), [("v1", "Podd"), ("apps/v1", "Deploymint"), ("example.com/v1", "Thing")]
)
def test_an_unknown_kind_has_no_mapping(cluster: PodlingCluster, version: str, kind: str) -> None:
    text = refuse(
        cluster,
        *("apply", "-f", "-"),
        input=json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}}),
    )
    assert f'no matches for kind "{kind}" in version "{version}"' in text


def test_an_unknown_resource_type_is_named(cluster: PodlingCluster) -> None:
    assert refuse(cluster, "get", "podz") == 'error: the server doesn\'t have a resource type "podz"\n'


# What the API server refuses


def test_unknown_fields_are_refused_warned_about_or_ignored(cluster: PodlingCluster, namespace: str) -> None:
    manifest = pod("typo", busybox("main", imagee="x"), namespace=namespace, contaniers=[])
    strict = refuse_pod(cluster, namespace, manifest, "--validate=strict")
    assert (
        'Error from server (BadRequest): error when creating "STDIN": Pod in version "v1" cannot be handled '
        'as a Pod: strict decoding error: unknown field "spec.containers[0].imagee", '
        'unknown field "spec.contaniers"' in strict
    )
    dry = ("create", "-n", namespace, "-f", "-", "--dry-run=server")
    warned = cluster.kubectl_run(*dry, "--validate=warn", input=json.dumps(manifest), check=True)
    assert warned.stderr.splitlines() == [
        'Warning: unknown field "spec.containers[0].imagee"',
        'Warning: unknown field "spec.contaniers"',
    ]
    ignored = cluster.kubectl_run(*dry, "--validate=ignore", input=json.dumps(manifest), check=True)
    assert ignored.stderr == ""


def test_a_field_given_twice_is_refused(cluster: PodlingCluster, namespace: str, tmp_path: Path) -> None:
    """By raw request: kubectl itself forgets the first of two values before it sends anything."""
    text = json.dumps(pod("twice", busybox("main"), namespace=namespace))
    body = tmp_path / "twice.json"
    body.write_text(text.replace('"image": "busybox"', '"image": "one", "image": "busybox"'))
    path = f"/api/v1/namespaces/{namespace}/pods"
    strict = refuse(cluster, "create", "--raw", f"{path}?fieldValidation=Strict", "-f", str(body))
    assert 'strict decoding error: duplicate field "spec.containers[0].image"' in strict
    assert cluster.get("pods", "-n", namespace)["items"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"containers": [{"name": "main", "image": 5}]},
            "cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            {"hostNetwork": "yes"},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            {"containers": {"name": "main"}},
            "cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            {"containers": [busybox("main", resources={"limits": {"cpu": "lots"}})]},
            "quantities must match the regular expression",
        ),
    ],
    ids=["string", "bool", "list", "quantity"],
)
def test_a_wrong_type_is_refused_in_the_decoders_words(
    cluster: PodlingCluster, namespace: str, change: dict[str, Any], words: str
) -> None:
    manifest = pod("wrong", busybox("main"), namespace=namespace)
    manifest["spec"].update(change)
    text = refuse_pod(cluster, namespace, manifest)
    assert 'Pod in version "v1" cannot be handled as a Pod: ' in text
    assert words in text


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (
            pod("Bad_Name", busybox("main")),
            ['metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of'],
        ),
        (
            pod("a", busybox("Main")),
            ['spec.containers[0].name: Invalid value: "Main": a lowercase RFC 1123 label must consist of'],
        ),
        (pod("a"), ['The Pod "a" is invalid: spec.containers: Required value']),
        (
            pod("a", busybox("main"), busybox("main")),
            ['spec.containers[1].name: Duplicate value: "main"'],
        ),
        (
            pod("a", busybox("main", volumeMounts=[{"name": "none", "mountPath": "/x"}])),
            ['spec.containers[0].volumeMounts[0].name: Not found: "none"'],
        ),
        (
            pod("a", busybox("main"), restartPolicy="Sometimes"),
            [
                'spec.restartPolicy: Unsupported value: "Sometimes": '
                'supported values: "Always", "OnFailure", "Never"'
            ],
        ),
        (
            pod("a", busybox("main", ports=[{"containerPort": 70000}])),
            ["ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            pod("a", busybox("main", resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            ['resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            pod("a", busybox("main"), labels={"bad key": "x", "good": "not good"}),
            ['metadata.labels: Invalid value: "bad key": ', 'metadata.labels: Invalid value: "not good": '],
        ),
    ],
    ids=["name", "container", "none", "twice", "mount", "policy", "port", "resources", "labels"],
)
def test_an_invalid_pod_is_refused_with_the_path_and_the_rule(
    cluster: PodlingCluster, namespace: str, manifest: dict[str, Any], words: list[str]
) -> None:
    manifest["metadata"]["namespace"] = namespace
    text = refuse_pod(cluster, namespace, manifest)
    for each in words:
        assert each in text


def test_bodies_and_objects_too_large_are_refused(
    cluster: PodlingCluster, namespace: str, tmp_path: Path
) -> None:
    def create(size: int) -> str:
        file = tmp_path / "large.json"
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "large"},
            "data": {"a": "x" * size},
        }
        file.write_text(json.dumps(document))
        return refuse(cluster, "create", "-n", namespace, "-f", str(file))

    assert "Error from server (RequestEntityTooLarge): " in create(4 * MIB)
    assert "Request entity too large: limit is 3145728" in create(4 * MIB)
    assert 'The ConfigMap "large" is invalid: []: Too long: may not be more than 1048576 bytes' in create(
        2 * MIB
    )
    assert refuse(cluster, "get", "cm", "large", "-n", namespace).startswith("Error from server (NotFound)")


def test_a_running_pod_cannot_become_another(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("fixed", busybox("main"), namespace=namespace, nodeSelector={"no": "node"}))
    text = refuse(cluster, "patch", "pod", "fixed", "-n", namespace, "-p", '{"spec": {"hostNetwork": true}}')
    assert (
        'The Pod "fixed" is invalid: spec: Forbidden: pod updates may not change fields other than '
        "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
        "`spec.tolerations` (only additions to existing tolerations)" in text
    )
    gone(cluster, namespace, "pod/fixed")


def test_what_is_not_there_cannot_be_found(cluster: PodlingCluster, namespace: str) -> None:
    missing = 'Error from server (NotFound): pods "ghost" not found\n'
    for verb in ("get", "delete", "describe"):
        assert refuse(cluster, verb, "pod", "ghost", "-n", namespace) == missing
    assert 'pods "ghost" not found' in refuse(cluster, "logs", "ghost", "-n", namespace)
    assert 'pods "ghost" not found' in refuse(cluster, "exec", "ghost", "-n", namespace, "--", "true")
    nowhere = refuse(cluster, "run", "x", "--image=busybox", "-n", "nowhere")
    assert nowhere == 'Error from server (NotFound): namespaces "nowhere" not found\n'
    cluster.kubectl("create", "configmap", "once", "-n", namespace)
    twice = refuse(cluster, "create", "configmap", "once", "-n", namespace)
    assert twice == 'error: failed to create configmap: configmaps "once" already exists\n'
    cluster.kubectl("delete", "configmap", "once", "-n", namespace)
    again = refuse(cluster, "delete", "configmap", "once", "-n", namespace)
    assert again == 'Error from server (NotFound): configmaps "once" not found\n'


def test_a_namespace_on_its_way_out_takes_nothing_new(cluster: PodlingCluster, namespace: str) -> None:
    stuck = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "holds", "namespace": namespace, "finalizers": ["example.com/hold"]},
        }
    )
    cluster.kubectl("create", "-f", "-", input=stuck)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    text = refuse(cluster, "create", "configmap", "late", "-n", namespace)
    assert f"unable to create new content in namespace {namespace} because it is being terminated" in text
    patch = '{"metadata": {"finalizers": null}}'
    cluster.kubectl("patch", "configmap", "holds", "-n", namespace, "--type=merge", "-p", patch)
    cluster.kubectl("wait", f"namespace/{namespace}", "--for=delete", "--timeout=20s")
    cluster.kubectl("create", "namespace", namespace)


def test_strangers_are_turned_away(cluster: PodlingCluster, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    (user,) = [u for u in config["users"] if u["name"] == f"podling-{cluster.name}"]
    (server,) = [c for c in config["clusters"] if c["name"] == f"podling-{cluster.name}"]

    def attempt(name: str) -> str:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(config))
        return refuse(cluster, "get", "pods", f"--kubeconfig={path}", f"--context=podling-{cluster.name}")

    user["user"] = {"token": "made-up"}
    assert "You must be logged in to the server" in attempt("token")
    server["cluster"]["server"] = server["cluster"]["server"].replace(":6443", ":6444")
    assert "was refused - did you specify the right host or port?" in attempt("port")
    server["cluster"]["server"] = server["cluster"]["server"].replace(":6444", ":6443")
    del server["cluster"]["certificate-authority-data"]
    assert "certificate signed by unknown authority" in attempt("authority")


# What the scheduler cannot place


def unschedulable(cluster: PodlingCluster, namespace: str, name: str) -> str:
    return wait_event(cluster, namespace, name, "FailedScheduling", "nodes are available")


def test_nothing_fits_and_the_event_says_why(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(
        [
            pod("huge", busybox("main", resources={"requests": {"memory": "1000Gi"}}), namespace=namespace),
            pod("picky", busybox("main"), namespace=namespace, nodeSelector={"disk": "ssd"}),
        ]
    )
    tainted = "1 node(s) had untolerated taint(s)"
    assert unschedulable(cluster, namespace, "huge") == (
        f"0/3 nodes are available: {tainted}, 2 Insufficient memory. "
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )
    assert unschedulable(cluster, namespace, "picky") == (
        f"0/3 nodes are available: {tainted}, 2 node(s) didn't match Pod's node affinity/selector. "
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    )
    condition = cluster.get("pod", "huge", "-n", namespace)["status"]["conditions"][0]
    assert (condition["type"], condition["status"], condition["reason"]) == (
        *("PodScheduled", "False", "Unschedulable"),
    )
    assert "FailedScheduling" in cluster.kubectl("describe", "pod", "huge", "-n", namespace)
    for name in ("huge", "picky"):
        assert status_column(cluster, namespace, name) == "Pending"
        gone(cluster, namespace, f"pod/{name}")


def test_a_taken_host_port_leaves_no_node(cluster: PodlingCluster, namespace: str) -> None:
    def holder(name: str, **spec: Any) -> dict[str, Any]:
        ports = [{"containerPort": 80, "hostPort": 18080}]
        return pod(name, busybox("main", ports=ports), namespace=namespace, **spec)

    cluster.apply([holder("one"), holder("two")])
    ready(cluster, namespace, "one", "two")
    cluster.apply(holder("three"))
    message = unschedulable(cluster, namespace, "three")
    assert "2 node(s) didn't have free ports for the requested pod ports" in message
    # Placed by hand, past the scheduler: the kubelet refuses it.
    node = cluster.get("pod", "one", "-n", namespace)["spec"]["nodeName"]
    cluster.apply(holder("four", nodeName=node))

    def rejected() -> None:
        status = cluster.get("pod", "four", "-n", namespace)["status"]
        assert (status["phase"], status.get("reason")) == ("Failed", "NodePorts")
        assert "Predicate NodePorts failed" in status["message"]

    eventually(rejected)
    gone(cluster, namespace, "pod/one")
    ready(cluster, namespace, "three")
    for name in ("two", "three", "four"):
        gone(cluster, namespace, f"pod/{name}")


# What the kubelet cannot start


def test_an_image_that_cannot_be_pulled_is_tried_again_with_back_off(
    cluster: PodlingCluster, namespace: str
) -> None:
    image = "registry.invalid/no/such-image:1"
    cluster.apply(pod("pulling", {"name": "main", "image": image}, namespace=namespace))
    cause = waiting(cluster, namespace, "pulling", "ErrImagePull")
    assert cause
    assert status_column(cluster, namespace, "pulling") in ("ErrImagePull", "ImagePullBackOff")
    backing_off = waiting(cluster, namespace, "pulling", "ImagePullBackOff")
    assert backing_off.startswith(f'Back-off pulling image "{image}"')
    wait_event(cluster, namespace, "pulling", "BackOff", f'Back-off pulling image "{image}"')
    seen = [
        (kind, reason, message.split(": ")[0])
        for kind, reason, message in events(cluster, namespace, "pulling")
    ]
    for expected in [
        ("Normal", "Pulling", f'Pulling image "{image}"'),
        ("Warning", "Failed", f'Failed to pull image "{image}"'),
        ("Warning", "Failed", "Error"),
    ]:
        assert expected in seen
    text = refuse(cluster, "logs", "pulling", "-n", namespace)
    assert 'container "main" in pod "pulling" is waiting to start: ' in text
    gone(cluster, namespace, "pod/pulling")


def test_an_image_that_may_not_be_pulled_or_has_no_name(cluster: PodlingCluster, namespace: str) -> None:
    never = {"name": "main", "image": "no-such-image", "imagePullPolicy": "Never"}
    cluster.apply(
        [
            pod("never", never, namespace=namespace),
            pod("misnamed", {"name": "main", "image": "Not:A:Name"}, namespace=namespace),
        ]
    )
    message = 'Container image "no-such-image" is not present with pull policy of Never'
    assert waiting(cluster, namespace, "never", "ErrImageNeverPull") == message
    wait_event(cluster, namespace, "never", "ErrImageNeverPull", message)
    wait_event(cluster, namespace, "never", "Failed", "Error: ErrImageNeverPull")
    assert waiting(cluster, namespace, "misnamed", "InvalidImageName") == (
        'Failed to apply default image tag "Not:A:Name": couldn\'t parse image name "Not:A:Name": '
        "invalid reference format"
    )
    wait_event(cluster, namespace, "misnamed", "Failed", "Error: InvalidImageName")
    for name in ("never", "misnamed"):
        gone(cluster, namespace, f"pod/{name}")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-command", 'exec: "no-such-command": executable file not found in $PATH'),
        ("/no/such/file", "no such file or directory"),
        ("/etc", "is a directory"),
        ("/etc/passwd", "permission denied"),
    ],
)
def test_a_command_that_cannot_be_run_is_a_start_error(
    cluster: PodlingCluster, namespace: str, command: str, words: str
) -> None:
    broken = busybox("main") | {"command": [command]}
    cluster.apply(
        [
            pod("once", broken, namespace=namespace, restartPolicy="Never"),
            pod("again", broken, namespace=namespace),
        ]
    )

    def ended(name: str, state: str) -> dict[str, Any]:
        status = container_status(cluster, namespace, name, "main")
        found = status.get(state, {}).get("terminated", {})
        assert found.get("reason") in ("StartError", "ContainerCannotRun"), status
        return dict(found)

    once = eventually(lambda: ended("once", "state"))
    assert once["exitCode"] == 128
    assert words in once["message"]
    assert cluster.get("pod", "once", "-n", namespace)["status"]["phase"] == "Failed"
    assert status_column(cluster, namespace, "once") in ("StartError", "ContainerCannotRun")
    again = eventually(lambda: ended("again", "lastState"))
    assert words in again["message"]
    waiting(cluster, namespace, "again", "CrashLoopBackOff")
    assert container_status(cluster, namespace, "again", "main")["restartCount"] >= 1
    assert words in wait_event(cluster, namespace, "again", "Failed", "Error: failed to start container")
    wait_event(
        cluster, namespace, "again", "BackOff", "Back-off restarting failed container main in pod again_"
    )
    for name in ("once", "again"):
        gone(cluster, namespace, f"pod/{name}")


def test_missing_objects_keep_containers_from_being_made_until_they_are_there(
    cluster: PodlingCluster, namespace: str
) -> None:
    def env(kind: str, name: str, key: str) -> dict[str, Any]:
        return {"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]}

    cluster.kubectl("create", "configmap", "present", "-n", namespace, "--from-literal=a=b")
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    cluster.apply(
        [
            pod("no-map", busybox("main", **env("configMapKeyRef", "absent", "a")), namespace=namespace),
            pod("no-secret", busybox("main", **env("secretKeyRef", "absent", "a")), namespace=namespace),
            pod("no-key", busybox("main", **env("configMapKeyRef", "present", "z")), namespace=namespace),
            pod(
                "no-volume",
                busybox("main", **mount),
                namespace=namespace,
                volumes=[{"name": "v", "secret": {"secretName": "absent"}}],
            ),
        ]
    )
    expected = {
        "no-map": 'configmap "absent" not found',
        "no-secret": 'secret "absent" not found',
        "no-key": f"couldn't find key z in ConfigMap {namespace}/present",
    }
    for name, message in expected.items():
        assert waiting(cluster, namespace, name, "CreateContainerConfigError") == message
        wait_event(cluster, namespace, name, "Failed", f"Error: {message}")
    failed = 'MountVolume.SetUp failed for volume "v" : secret "absent" not found'
    wait_event(cluster, namespace, "no-volume", "FailedMount", failed)
    assert status_column(cluster, namespace, "no-volume") == "ContainerCreating"
    cluster.kubectl("create", "configmap", "absent", "-n", namespace, "--from-literal=a=now there")
    ready(cluster, namespace, "no-map")
    assert inside(cluster, namespace, "no-map", "echo $X") == "now there"
    for name in (*expected, "no-volume"):
        gone(cluster, namespace, f"pod/{name}")


def test_a_host_path_of_another_type_is_not_mounted(cluster: PodlingCluster, namespace: str) -> None:
    volume = {"name": "v", "hostPath": {"path": "/etc/passwd", "type": "Directory"}}
    main = busybox("main", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    cluster.apply(pod("typed", main, namespace=namespace, volumes=[volume]))
    words = "hostPath type check failed: /etc/passwd is not a directory"
    wait_event(cluster, namespace, "typed", "FailedMount", words)
    gone(cluster, namespace, "pod/typed")


def traces(cluster: PodlingCluster, node: str, uids: list[str]) -> dict[str, list[str]]:
    """By pod UID, whatever on the node still has it in its name."""
    script = (
        "podling ps -a --no-trunc; "
        "ls -d /var/lib/kubelet/pods/* /var/log/pods/* /var/log/containers/* 2>/dev/null; "
        "find /sys/fs/cgroup -type d -name '*pod*'; cut -d' ' -f5 /proc/self/mountinfo"
    )
    lines = cluster.node(node, "sh", "-c", script).splitlines()
    return {uid: [line for line in lines if uid in line or uid.replace("-", "_") in line] for uid in uids}


def addresses(cluster: PodlingCluster, node: str) -> set[str]:
    """What host-local has given away."""
    listed = cluster.node(node, "sh", "-c", "ls /var/lib/cni/networks/*/ 2>/dev/null; true")
    return set(re.findall(r"^[\d.]+$", listed, re.M))


def test_pods_that_never_started_leave_nothing_on_the_node(cluster: PodlingCluster, namespace: str) -> None:
    node = "kube-node-2"
    held, networks = addresses(cluster, node), set(cluster.node(node, "ls", "/run/netns").split())
    secret = {"name": "v", "secret": {"secretName": "absent"}}
    memory = {"name": "m", "emptyDir": {"medium": "Memory"}}
    mount = {"volumeMounts": [{"name": "m", "mountPath": "/m"}]}
    on_node = {"namespace": namespace, "nodeName": node}
    cluster.apply(
        [
            pod("image", {"name": "main", "image": "registry.invalid/none:1"}, **on_node),
            pod("command", busybox("main", **mount) | {"command": ["none"]}, volumes=[memory], **on_node),
            pod("volume", busybox("main", **mount), volumes=[memory, secret], **on_node),
            pod("init", busybox("main"), initContainers=[busybox("first", "exit 1")], **on_node),
        ]
    )
    waiting(cluster, namespace, "image", "ErrImagePull")
    waiting(cluster, namespace, "command", "CrashLoopBackOff")
    wait_event(cluster, namespace, "volume", "FailedMount", "absent")
    wait_event(cluster, namespace, "init", "BackOff", "Back-off restarting failed container first")
    uids = [p["metadata"]["uid"] for p in cluster.get("pods", "-n", namespace)["items"]]
    assert all(traces(cluster, node, uids).values())
    cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--timeout=30s")
    assert traces(cluster, node, uids) == {uid: [] for uid in uids}
    assert addresses(cluster, node) <= held
    assert set(cluster.node(node, "ls", "/run/netns").split()) <= networks


# What does not exist inside a pod that does


def test_a_wrong_container_or_command_is_named(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("web", busybox("main"), busybox("other"), namespace=namespace))
    ready(cluster, namespace, "web")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        verb, *rest = args
        return cluster.kubectl_run(verb, "-n", namespace, "web", *rest)

    for args in [("exec", "-c", "ghost", "--", "true"), ("logs", "-c", "ghost"), ("attach", "-c", "ghost")]:
        done = run(*args)
        assert done.returncode == 1
        assert re.search(
            r"container \"?ghost\"? (is not valid for pod|not found in pod) \"?web", done.stderr
        ), done
    missing = run("exec", "--", "no-such-command")
    assert missing.returncode in (1, 126, 127)
    assert 'exec: "no-such-command": executable file not found in $PATH' in missing.stderr
    previous = run("logs", "--previous", "-c", "main")
    assert 'previous terminated container "main" in pod "web" not found' in previous.stderr
    denied = run("cp", "web:/no/such/file", "/tmp/never-copied", "-c", "main")
    assert denied.returncode == 1 or "No such file" in denied.stderr
    gone(cluster, namespace, "pod/web")


def test_exec_into_a_finished_container_is_refused(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("done", busybox("main", "exit 0"), namespace=namespace, restartPolicy="Never"))
    phase = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", "pod/done", "-n", namespace, phase, "--timeout=20s")
    text = refuse(cluster, "exec", "done", "-n", namespace, "--", "true")
    assert "cannot exec into a container in a completed pod; current phase is Succeeded" in text
    gone(cluster, namespace, "pod/done")


def test_forwarding_to_a_port_nobody_listens_on_says_connection_refused(
    cluster: PodlingCluster, namespace: str
) -> None:
    cluster.apply(pod("deaf", busybox("main"), namespace=namespace))
    ready(cluster, namespace, "deaf")
    argv = [str(kubectl_path()), "port-forward", "-n", namespace, "pod/deaf", ":81", "--address=127.0.0.1"]
    with subprocess.Popen(
        argv, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as forwarding:
        try:
            assert forwarding.stdout is not None
            port = re.search(r":(\d+) -> 81", forwarding.stdout.readline())
            assert port is not None
            with socket.create_connection(("127.0.0.1", int(port[1])), timeout=20) as connection:
                connection.sendall(b"anyone?")
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
            assert forwarding.stdout.readline().startswith("Handling connection for")
            error = forwarding.stdout.readline()
            assert "an error occurred forwarding" in error
            assert "onnection refused" in error
        finally:
            forwarding.kill()
    gone(cluster, namespace, "pod/deaf")


# podling's own command line


def podling(
    cluster: PodlingCluster, *args: str, argv0: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [*argv0, sys.executable, "-m", "podling.cli", *args]
    return cluster.run(argv, check=False, timeout_s=60, env=env)


def test_up_without_root_says_to_use_sudo(cluster: PodlingCluster) -> None:
    # A user namespace without a mapping: nobody, yet able to read the program wherever it lies.
    done = podling(cluster, "up", "--name", "unprivileged", argv0=("unshare", "--user"))
    assert done.returncode == 1
    assert "needs root: run it with sudo" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("/var/lib/podling/clusters/unprivileged").exists()


def test_up_without_its_programs_names_them_and_their_packages(
    cluster: PodlingCluster, tmp_path: Path
) -> None:
    done = podling(cluster, "up", "--name", "bare", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "missing programs: crun, conmon" in done.stderr
    assert "apt-get install crun conmon" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("/var/lib/podling/clusters/bare").exists()


def test_unknown_clusters_nodes_and_containers_are_named(cluster: PodlingCluster) -> None:
    def fails(*args: str) -> str:
        done = podling(cluster, *args)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        return done.stderr

    words = f'no node "kube-node-9" in cluster "{cluster.name}": its nodes are kube-master, kube-node-1'
    assert words in fails("node", "exec", "kube-node-9", "--", "true")
    assert words in fails("node", "shell", "kube-node-9")
    assert 'no cluster "elsewhere" on this machine' in fails("node", "list", "--name", "elsewhere")
    for command in ("inspect", "logs"):
        text = cluster.run(
            [*_node_exec(cluster), "podling", command, "no-such-thing"], check=False, timeout_s=60
        )
        assert text.returncode == 1
        assert "no-such-thing" in text.stderr
        assert "no such" in text.stderr.lower()
        assert "Traceback" not in text.stderr


def _node_exec(cluster: PodlingCluster) -> list[str]:
    return [sys.executable, "-m", "podling.cli", "node", "exec", "kube-node-1", "--"]


def test_a_failing_command_on_a_node_gives_its_exit_code(cluster: PodlingCluster) -> None:
    assert podling(cluster, "node", "exec", "kube-node-1", "--", "sh", "-c", "exit 7").returncode == 7
    missing = podling(cluster, "node", "exec", "kube-node-1", "--", "no-such-program")
    assert missing.returncode == 127
    assert "no-such-program" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_a_broken_kubeconfig_is_not_made_worse(cluster: PodlingCluster, tmp_path: Path) -> None:
    broken = tmp_path / "config"
    broken.write_text("clusters: [\n")
    done = podling(cluster, "up", "--name", "broken", "--no-egress", env={"KUBECONFIG": str(broken)})
    assert done.returncode == 1
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr
    assert broken.read_text() == "clusters: [\n"
    assert not Path("/var/lib/podling/clusters/broken").exists()


def test_down_removes_a_cluster_though_the_kubeconfig_broke_meanwhile(images: None, tmp_path: Path) -> None:
    doomed = PodlingCluster("doomed", workers=0)
    doomed.__enter__()
    doomed.kubeconfig.write_text("clusters: [\n")
    done = doomed.run([sys.executable, "-m", "podling.cli", "down"], check=False, timeout_s=60)
    assert done.returncode == 1
    assert str(doomed.kubeconfig) in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("/var/lib/podling/clusters/doomed").exists()
    doomed.kubeconfig.unlink()
    with doomed:  # nothing is in the way of another one
        pass
