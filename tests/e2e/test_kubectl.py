"""What people type: the everyday commands of the newest kubectl, each with the answer they expect.

Runs, copies and port forwards of old and new kubectl are in `test_clients.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from e2e.shorthand import events, gone, inside, ready, wait_event
from e2e.terminal import Terminal
from podling.machine.kubectl import kubectl_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def home(cluster: PodlingCluster, module_namespace: str) -> str:
    """The namespace of two pods that most tests only look at or label."""
    cluster.apply(
        [
            pod("front", busybox("main"), namespace=module_namespace, labels={"tier": "front", "app": "x"}),
            pod("back", busybox("main"), namespace=module_namespace, labels={"tier": "back", "app": "x"}),
        ]
    )
    ready(cluster, module_namespace, "front", "back")
    return module_namespace


@pytest.fixture
def kubectl(cluster: PodlingCluster, home: str) -> Kubectl:
    """`kubectl -n HOME ARGS`; its standard output."""

    def run(*args: str, **options: object) -> str:
        return cluster.kubectl("-n", home, *args, **options)  # type: ignore[arg-type]

    return run


# Run


def test_run_makes_a_pod_whose_output_logs_shows(cluster: PodlingCluster, namespace: str) -> None:
    run = ("run", "hello", "-n", namespace, "--image=busybox", "--restart=Never")
    assert cluster.kubectl(*run, "--", "echo", "hi").strip() == "pod/hello created"
    phase = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", "pod/hello", "-n", namespace, phase, "--timeout=20s")
    assert cluster.kubectl("logs", "hello", "-n", namespace) == "hi\n"
    row = cluster.kubectl("get", "pod", "hello", "-n", namespace, "--no-headers").split()
    assert row[1:4] == ["0/1", "Completed", "0"]


def test_run_with_input_attaches_and_removes_the_pod_afterwards(
    cluster: PodlingCluster, namespace: str
) -> None:
    run = ("run", "-n", namespace, "-i", "--rm", "--restart=Never", "--image=busybox", "once")
    done = cluster.kubectl_run(*run, "--", "sh", "-c", "read line; echo got $line; exit 3", input="a line\n")
    assert "got a line" in done.stdout
    assert done.returncode == 3
    assert 'pod "once" deleted' in done.stdout
    assert cluster.get("pods", "-n", namespace)["items"] == []


def test_run_on_a_terminal_gives_a_shell(cluster: PodlingCluster, namespace: str) -> None:
    argv = [
        *(str(kubectl_path()), "run", "-n", namespace, "-it", "--rm", "--restart=Never"),
        *("--image=busybox", "--override-type=strategic", "shell", "--", "sh"),
    ]
    with Terminal(argv, cluster.env) as terminal:
        terminal.expect("command prompt")
        terminal.type("\n")
        terminal.expect("# ")
        terminal.type("tty; echo $((40+2))-done\n")
        assert "/dev/pts/" in terminal.expect("42-done")
        terminal.type("exit\n")
        terminal.expect('pod "shell" deleted')
        assert terminal.wait() == 0


# Change


def test_labels_and_annotations_are_set_refused_overwritten_and_removed(
    cluster: PodlingCluster, kubectl: Kubectl, home: str
) -> None:
    assert kubectl("label", "pod", "front", "color=red") == "pod/front labeled\n"
    refused = cluster.kubectl_run("label", "-n", home, "pod", "front", "color=blue")
    assert refused.returncode == 1
    assert "'color' already has a value (red), and --overwrite is false" in refused.stderr
    kubectl("label", "pod", "front", "color=blue", "--overwrite")
    assert kubectl("get", "pods", "-l", "color=blue", "-o", "name") == "pod/front\n"
    assert kubectl("label", "pod", "front", "color-") == "pod/front unlabeled\n"
    kubectl("annotate", "pod", "--all", "note=all of them")
    notes = kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.annotations.note}")
    assert notes == "all of them all of them"


def test_patches_of_three_types(kubectl: Kubectl) -> None:
    kubectl("patch", "pod", "front", "-p", '{"metadata": {"labels": {"by": "strategic"}}}')
    # Merged by the container's name: what is not mentioned stays.
    merged = '{"spec": {"containers": [{"name": "main", "image": "busybox"}]}}'
    kubectl("patch", "pod", "front", "--type=strategic", "-p", merged)
    assert "sleep" in kubectl("get", "pod", "front", "-o", "jsonpath={.spec.containers[*].command}")
    kubectl("patch", "pod", "front", "--type=merge", "-p", '{"metadata": {"labels": {"by": "merge"}}}')
    assert kubectl("get", "pod", "front", "-o", "jsonpath={.metadata.labels.by}") == "merge"
    test_and_remove = [
        {"op": "test", "path": "/metadata/labels/by", "value": "merge"},
        {"op": "remove", "path": "/metadata/labels/by"},
    ]
    kubectl("patch", "pod", "front", "--type=json", "-p", json.dumps(test_and_remove))
    assert kubectl("get", "pod", "front", "-o", "jsonpath={.metadata.labels.by}") == ""


def test_edit_sends_what_the_editor_changed(
    cluster: PodlingCluster, kubectl: Kubectl, home: str, tmp_path: Path
) -> None:
    kubectl("create", "configmap", "edited", "--from-literal=a=before")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/a: before/a: after/" "$1"\n')
    editor.chmod(0o755)
    done = kubectl("edit", "configmap", "edited", env={"KUBE_EDITOR": str(editor)})
    assert done == "configmap/edited edited\n"
    assert kubectl("get", "configmap", "edited", "-o", "jsonpath={.data.a}") == "after"
    again = cluster.kubectl_run("edit", "-n", home, "configmap", "edited", env={"KUBE_EDITOR": "true"})
    assert "Edit cancelled, no changes made." in again.stderr


def test_diff_and_replace(cluster: PodlingCluster, kubectl: Kubectl, home: str) -> None:
    kubectl("create", "configmap", "replaced", "--from-literal=a=old")
    document = yaml.safe_load(kubectl("get", "configmap", "replaced", "-o", "yaml"))
    same = cluster.kubectl_run("diff", "-n", home, "-f", "-", input=json.dumps(document))
    assert (same.returncode, same.stdout) == (0, "")
    document["data"]["a"] = "new"
    text = json.dumps(document)
    differs = cluster.kubectl_run("diff", "-n", home, "-f", "-", input=text)
    assert differs.returncode == 1
    assert "-  a: old\n+  a: new\n" in differs.stdout
    assert kubectl("replace", "-f", "-", input=text) == "configmap/replaced replaced\n"
    stale = cluster.kubectl_run("replace", "-n", home, "-f", "-", input=text)
    assert "the object has been modified; please apply your changes to the latest version" in stale.stderr
    forced = kubectl("replace", "--force", "-f", "-", input=text)
    assert f'configmap "replaced" deleted from {home} namespace' in forced
    assert "configmap/replaced replaced" in forced


def test_a_changed_image_restarts_the_container(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("upgraded", busybox("main"), namespace=namespace))
    ready(cluster, namespace, "upgraded")
    cluster.kubectl("set", "image", "-n", namespace, "pod/upgraded", "main=busybox:latest")

    def restarted() -> None:
        (status,) = cluster.get("pod", "upgraded", "-n", namespace)["status"]["containerStatuses"]
        assert status["restartCount"] == 1
        assert status["ready"]

    eventually(restarted)
    wait_event(
        cluster, namespace, "upgraded", "Killing", "Container main definition changed, will be restarted"
    )


# Look


def test_describe_tells_the_pods_story(cluster: PodlingCluster, kubectl: Kubectl, home: str) -> None:
    found = cluster.get("pod", "front", "-n", home)
    for reason in ("Scheduled", "Pulled", "Created", "Started"):
        wait_event(cluster, home, "front", reason, "")
    text = kubectl("describe", "pod", "front")
    fields = dict(re.findall(r"^(\S[^:\n]*): +(\S.*)$", text, re.M))
    node = found["spec"]["nodeName"]
    assert fields["Node"] == f"{node}/{found['status']['hostIP']}"
    assert fields["Status"] == "Running"
    assert fields["IP"] == found["status"]["podIP"]
    assert fields["QoS Class"] == "BestEffort"
    assert re.search(r"Container ID: +\w+://[0-9a-f]{64}\n", text)
    assert re.search(r"Image ID: +\S*sha256:[0-9a-f]{64}\n", text)
    for condition in ("Initialized", "Ready", "ContainersReady", "PodScheduled", "PodReadyToStartContainers"):
        assert re.search(rf"^  {condition} +True *$", text, re.M)
    story = [line.split()[1] for line in text[text.index("Events:") :].splitlines()[3:]]
    assert story[:4] == ["Scheduled", "Pulled", "Created", "Started"]
    assert f"Successfully assigned {home}/front to {node}" in text


def test_describe_node_lists_its_pods_and_what_they_asked_for(
    cluster: PodlingCluster, kubectl: Kubectl, home: str
) -> None:
    node = cluster.get("pod", "front", "-n", home)["spec"]["nodeName"]
    text = kubectl("describe", "node", node)
    assert re.search(rf"^  {home} +front +0 \(0%\)", text, re.M)
    assert re.search(r"^  Ready +True .* KubeletReady ", text, re.M)
    for heading in ("Capacity:", "Allocatable:", "System Info:", "PodCIDR:", "Allocated resources:"):
        assert heading in text
    assert re.search(r"Container Runtime Version: +podling://", text)


def test_get_by_labels_and_fields(cluster: PodlingCluster, kubectl: Kubectl) -> None:
    def names(*args: str) -> list[str]:
        return [line.removeprefix("pod/") for line in kubectl("get", "pods", *args, "-o", "name").split()]

    assert names("-l", "app=x") == ["back", "front"]
    assert names("-l", "app=x,tier!=back") == ["front"]
    assert names("-l", "tier in (front, side),app") == ["front"]
    assert names("-l", "!tier") == []
    assert names("--field-selector", "metadata.name=back") == ["back"]
    assert names("--field-selector", "status.phase!=Running") == []
    nodes = kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert names("--field-selector", f"spec.nodeName={nodes[0]},status.phase=Running")[0] == "back"
    unknown = cluster.kubectl_run("get", "pods", "--field-selector", "spec.colour=red")
    assert unknown.stderr == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "", '
        'field selector "spec.colour=red": field label not supported: spec.colour\n'
    )


def test_get_in_many_shapes(cluster: PodlingCluster, kubectl: Kubectl, home: str) -> None:
    columns = "NAME:.metadata.name,IMAGE:.spec.containers[*].image,NONE:.spec.nothing"
    table = kubectl("get", "pods", "-l", "app=x", "-o", f"custom-columns={columns}").splitlines()
    assert [line.split() for line in table] == [
        ["NAME", "IMAGE", "NONE"],
        ["back", "busybox", "<none>"],
        ["front", "busybox", "<none>"],
    ]
    template = '{range .items[*]}{.metadata.name}={.status.phase}{"\\n"}{end}'
    assert kubectl("get", "pods", "-l", "app=x", "-o", f"jsonpath={template}") == (
        "back=Running\nfront=Running\n"
    )
    ordered = kubectl("get", "pods", "-l", "app=x", "--sort-by={.metadata.labels.tier}", "-o", "name")
    assert ordered.split() == ["pod/back", "pod/front"]
    labelled = kubectl("get", "pods", "-l", "app=x", "-L", "tier", "--no-headers").splitlines()
    assert [line.split()[-1] for line in labelled] == ["back", "front"]
    assert "app=x" in kubectl("get", "pod", "front", "--show-labels")
    assert yaml.safe_load(kubectl("get", "pod", "front", "-o", "yaml"))["metadata"]["name"] == "front"
    everywhere = kubectl("get", "pods", "-A").splitlines()
    assert everywhere[0].split()[:2] == ["NAMESPACE", "NAME"]
    assert [home, "front"] in [line.split()[:2] for line in everywhere]
    several = kubectl("get", "pod/front", "configmap/kube-root-ca.crt")
    assert "pod/front" in several
    assert "configmap/kube-root-ca.crt" in several
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    empty = cluster.kubectl_run("get", "pods", "-n", "kube-public", check=True)
    assert empty.stderr == "No resources found in kube-public namespace.\n"


def test_get_watch_shows_a_pod_come_and_go(cluster: PodlingCluster, namespace: str) -> None:
    argv = [str(kubectl_path()), "get", "pods", "-n", namespace, "--watch", "--output-watch-events"]
    with subprocess.Popen(argv, env=cluster.env, stdout=subprocess.PIPE, text=True) as watching:
        try:
            cluster.apply(pod("seen", busybox("main"), namespace=namespace))
            assert watching.stdout is not None
            rows = [watching.stdout.readline().split()]
            while rows[-1][:1] != ["DELETED"]:
                rows.append(watching.stdout.readline().split())
                if rows[-1][2:4] == ["1/1", "Running"]:
                    cluster.kubectl("delete", "pod", "seen", "-n", namespace, "--wait=false")
        finally:
            watching.kill()
    assert rows[0] == ["EVENT", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    statuses = [row[3] for row in rows[1:]]
    assert statuses[0] == "Pending"
    assert "Running" in statuses
    assert "Terminating" in statuses


def test_events_in_their_two_tables(cluster: PodlingCluster, kubectl: Kubectl, home: str) -> None:
    wait_event(cluster, home, "front", "Started", "Started container main")
    header, *rows = kubectl("events", "--for", "pod/front").splitlines()
    assert re.split(r" {2,}", header) == ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert any(re.search(r"Normal +Started +Pod/front +Started container main", row) for row in rows)
    table = kubectl("get", "events", "--field-selector=involvedObject.name=front,reason=Scheduled")
    assert "pod/front" in table


# Ask about the server


def test_server_and_its_kinds(kubectl: Kubectl) -> None:
    assert re.search(r"^Server Version: v1\.37\.", kubectl("version"), re.M)
    info = re.sub(r"\x1b\[[0-9;]*m", "", kubectl("cluster-info"))
    assert re.search(r"Kubernetes control plane is running at https://10\.192\.\d+\.2:6443", info)
    rows = {line.split()[0]: line.split() for line in kubectl("api-resources", "--no-headers").splitlines()}
    assert rows["pods"] == ["pods", "po", "v1", "true", "Pod"]
    assert rows["nodes"] == ["nodes", "no", "v1", "false", "Node"]
    assert rows["leases"] == ["leases", "coordination.k8s.io/v1", "true", "Lease"]
    assert {"v1", "coordination.k8s.io/v1"} <= set(kubectl("api-versions").split())


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_explain(cluster: PodlingCluster, version: str) -> None:
    field = cluster.kubectl("explain", "pod.spec.restartPolicy", version=version)
    assert re.search(r"^KIND: +Pod$", field, re.M)
    assert "Restart policy for all containers within the pod" in field
    tree = cluster.kubectl("explain", "pod.spec.containers", "--recursive", version=version)
    assert re.search(r"^ +valueFrom\t<EnvVarSource>$", tree, re.M)
    unknown = cluster.kubectl_run("explain", "pod.spec.nothing", version=version)
    assert 'field "nothing" does not exist' in unknown.stderr


def test_auth_answers(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    assert kubectl("auth", "can-i", "*", "*", "--all-namespaces") == "yes\n"
    assert "system:masters" in kubectl("auth", "whoami")


def test_what_is_not_there_says_so(cluster: PodlingCluster) -> None:
    for kind in ("pods", "nodes"):
        done = cluster.kubectl_run("top", kind)
        assert (done.returncode, done.stderr) == (1, "error: Metrics API not available\n")
    done = cluster.kubectl_run("get", "gateways")
    assert done.stderr == 'error: the server doesn\'t have a resource type "gateways"\n'


# Namespaces, config maps, secrets


def test_a_deleted_namespace_takes_its_contents_along(cluster: PodlingCluster) -> None:
    assert cluster.kubectl("create", "namespace", "short-lived") == "namespace/short-lived created\n"
    cluster.kubectl("create", "configmap", "inside", "-n", "short-lived")
    cluster.apply(pod("inside", busybox("main"), namespace="short-lived"))
    ready(cluster, "short-lived", "inside")
    node = cluster.get("pod", "inside", "-n", "short-lived")["spec"]["nodeName"]
    uid = cluster.get("pod", "inside", "-n", "short-lived")["metadata"]["uid"]
    assert cluster.kubectl("delete", "namespace", "short-lived") == 'namespace "short-lived" deleted\n'
    done = cluster.kubectl_run("get", "namespace", "short-lived")
    assert done.stderr == 'Error from server (NotFound): namespaces "short-lived" not found\n'
    left = cluster.kubectl_run("get", "pods,configmaps,serviceaccounts", "-n", "short-lived", check=True)
    assert left.stderr == "No resources found in short-lived namespace.\n"
    assert uid not in cluster.node(node, "podling", "ps", "-a", "--no-trunc")


def test_config_maps_and_secrets_from_literals_and_files(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "app.conf").write_text("listen 80\n")
    (tmp_path / "vars.env").write_text("A=1\nB=2\n")
    kubectl("create", "configmap", "files", f"--from-file={tmp_path / 'app.conf'}", "--from-literal=k=v")
    data = json.loads(kubectl("get", "configmap", "files", "-o", "jsonpath={.data}"))
    assert data == {"app.conf": "listen 80\n", "k": "v"}
    assert kubectl("get", "configmap", "files", "--no-headers").split()[1] == "2"
    kubectl("create", "secret", "generic", "hidden", f"--from-env-file={tmp_path / 'vars.env'}")
    assert json.loads(kubectl("get", "secret", "hidden", "-o", "jsonpath={.data}")) == {
        "A": "MQ==",
        "B": "Mg==",
    }
    assert kubectl("get", "secret", "hidden", "--no-headers").split()[1:3] == ["Opaque", "2"]
    described = kubectl("describe", "secret", "hidden")
    assert "A:  1 bytes" in described
    assert "MQ==" not in described


# Delete


def test_a_container_that_traps_sigterm_gets_its_grace_period(
    cluster: PodlingCluster, namespace: str
) -> None:
    folder = "/run/podling-grace"
    node = "kube-node-1"
    script = "trap 'sleep 1; echo done > /out/polite; exit 0' TERM; while :; do sleep 0.1; done"
    mounted = pod(
        "polite",
        busybox("main", script, volumeMounts=[{"name": "out", "mountPath": "/out"}]),
        namespace=namespace,
        nodeName=node,
        volumes=[{"name": "out", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
        terminationGracePeriodSeconds=20,
    )
    cluster.apply(mounted)
    ready(cluster, namespace, "polite")
    began = time.monotonic()
    cluster.kubectl("delete", "pod", "polite", "-n", namespace, "--wait=false")
    assert (
        cluster.kubectl("get", "pod", "polite", "-n", namespace, "--no-headers").split()[2] == "Terminating"
    )
    cluster.kubectl("wait", "pod/polite", "-n", namespace, "--for=delete", "--timeout=20s")
    assert 1 <= time.monotonic() - began < 8
    assert cluster.node(node, "cat", f"{folder}/polite") == "done\n"
    wait_event(cluster, namespace, "polite", "Killing", "Stopping container main")


def test_a_container_that_ignores_sigterm_is_killed_after_its_grace_period(
    cluster: PodlingCluster, namespace: str
) -> None:
    stubborn = busybox("main", "trap '' TERM; while :; do sleep 0.1; done")
    cluster.apply(pod("stubborn", stubborn, namespace=namespace, terminationGracePeriodSeconds=3))
    ready(cluster, namespace, "stubborn")
    began = time.monotonic()
    cluster.kubectl("delete", "pod", "stubborn", "-n", namespace, "--timeout=20s")
    assert 3 <= time.monotonic() - began < 8


def test_a_forced_deletion_is_at_once_and_the_node_follows(cluster: PodlingCluster, namespace: str) -> None:
    stubborn = busybox("main", "trap '' TERM; while :; do sleep 0.1; done")
    cluster.apply(pod("forced", stubborn, namespace=namespace, terminationGracePeriodSeconds=600))
    ready(cluster, namespace, "forced")
    found = cluster.get("pod", "forced", "-n", namespace)
    began = time.monotonic()
    done = cluster.kubectl_run(
        "delete", "pod", "forced", "-n", namespace, "--grace-period=0", "--force", check=True
    )
    assert time.monotonic() - began < 5
    assert f'pod "forced" force deleted from {namespace} namespace' in done.stdout
    assert "Immediate deletion does not wait for confirmation" in done.stderr

    def no_container_left() -> None:
        listed = cluster.node(found["spec"]["nodeName"], "podling", "ps", "-a", "--no-trunc")
        assert found["metadata"]["uid"] not in listed

    eventually(no_container_left)


def test_wait_for_deletion_returns_when_the_pod_is_gone(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("leaving", busybox("main"), namespace=namespace))
    ready(cluster, namespace, "leaving")
    cluster.kubectl("delete", "pod", "leaving", "-n", namespace, "--wait=false")
    done = cluster.kubectl("wait", "--for=delete", "pod/leaving", "-n", namespace, "--timeout=20s")
    assert done in ("", "pod/leaving condition met\n")
    assert cluster.kubectl_run("get", "pod", "leaving", "-n", namespace).returncode == 1
    late = cluster.kubectl_run("wait", "--for=condition=Ready", "pod/leaving", "-n", namespace)
    assert 'pods "leaving" not found' in late.stderr


# Nodes


def test_a_cordoned_node_gets_no_new_pods(cluster: PodlingCluster, namespace: str) -> None:
    assert cluster.kubectl("cordon", "kube-node-1") == "node/kube-node-1 cordoned\n"
    try:
        row = cluster.kubectl("get", "node", "kube-node-1", "--no-headers").split()
        assert row[1] == "Ready,SchedulingDisabled"
        cluster.apply([pod(f"p{n}", busybox("main"), namespace=namespace) for n in range(3)])
        ready(cluster, namespace, "p0", "p1", "p2")
        nodes = {p["spec"]["nodeName"] for p in cluster.get("pods", "-n", namespace)["items"]}
        assert nodes == {"kube-node-2"}
        here = pod(
            "here",
            busybox("main"),
            namespace=namespace,
            nodeSelector={"kubernetes.io/hostname": "kube-node-1"},
        )
        cluster.apply(here)
        wait_event(cluster, namespace, "here", "FailedScheduling", "1 node(s) were unschedulable")
    finally:
        assert cluster.kubectl("uncordon", "kube-node-1") == "node/kube-node-1 uncordoned\n"
    ready(cluster, namespace, "here")


def test_taints_keep_pods_away_and_no_execute_drives_them_out(
    cluster: PodlingCluster, namespace: str
) -> None:
    tolerant = [{"key": "dedicated", "operator": "Equal", "value": "x", "effect": "NoExecute"}]
    cluster.apply(
        [
            pod("stays", busybox("main"), namespace=namespace, nodeName="kube-node-2", tolerations=tolerant),
            pod("leaves", busybox("main"), namespace=namespace, nodeName="kube-node-2"),
        ]
    )
    ready(cluster, namespace, "stays", "leaves")
    assert (
        cluster.kubectl("taint", "node", "kube-node-2", "dedicated=x:NoExecute")
        == "node/kube-node-2 tainted\n"
    )
    try:
        cluster.kubectl("wait", "pod/leaves", "-n", namespace, "--for=delete", "--timeout=20s")
        left = cluster.kubectl("get", "pods", "-n", namespace, "-o", "name")
        assert left == "pod/stays\n"
        assert ("Normal", "TaintManagerEviction") in [e[:2] for e in events(cluster, namespace, "leaves")]
    finally:
        untainted = cluster.kubectl("taint", "node", "kube-node-2", "dedicated:NoExecute-")
    assert untainted == "node/kube-node-2 untainted\n"
    gone(cluster, namespace, "pod/stays")


def test_drain_moves_nothing_but_removes_what_it_may(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(pod("bare", busybox("main"), namespace=namespace, nodeName="kube-node-2"))
    ready(cluster, namespace, "bare")
    selector = f"--pod-selector=in={namespace}"
    cluster.kubectl("label", "pod", "bare", "-n", namespace, f"in={namespace}")
    try:
        refused = cluster.kubectl_run("drain", "kube-node-2", selector)
        assert refused.returncode == 1
        assert "cannot delete Pods that declare no controller (use --force to override)" in refused.stderr
        drained = cluster.kubectl("drain", "kube-node-2", selector, "--force")
        assert "pod/bare evicted" in drained
        assert "node/kube-node-2 drained" in drained
    finally:
        cluster.kubectl("uncordon", "kube-node-2")
    assert cluster.get("pods", "-n", namespace)["items"] == []


# Logs, exec, copies that are the same for every version


def test_logs_of_an_earlier_run_and_by_selector(cluster: PodlingCluster, namespace: str) -> None:
    script = (
        "n=$(cat /n/count 2>/dev/null || echo 0); echo run $n; echo $((n+1)) > /n/count; "
        "[ $n = 1 ] && sleep 3600"
    )
    counting = busybox("main", script, volumeMounts=[{"name": "n", "mountPath": "/n"}])
    cluster.apply(
        pod(
            "counting",
            counting,
            namespace=namespace,
            labels={"app": "counting"},
            volumes=[{"name": "n", "emptyDir": {}}],
        )
    )

    def second_run() -> None:
        assert cluster.kubectl("logs", "counting", "-n", namespace) == "run 1\n"

    eventually(second_run)
    assert cluster.kubectl("logs", "counting", "-n", namespace, "--previous") == "run 0\n"
    assert cluster.kubectl("logs", "-l", "app=counting", "-n", namespace) == "run 1\n"
    assert cluster.kubectl("logs", "counting", "-n", namespace, "--since=1h", "--limit-bytes=3") == "run"
    assert inside(cluster, namespace, "counting", "cat /n/count") == "2"


def test_impersonation_judges_by_the_other_users_rights(cluster: PodlingCluster) -> None:
    assert cluster.kubectl("auth", "can-i", "delete", "nodes").strip() == "yes"
    refused = cluster.kubectl_run("auth", "can-i", "delete", "nodes", "--as=nobody")
    assert (refused.stdout.strip(), refused.returncode) == ("no", 1)
    listed = cluster.kubectl_run("get", "nodes", "--as=nobody")
    assert 'User "nobody" cannot list resource "nodes"' in listed.stderr
