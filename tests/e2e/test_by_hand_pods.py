"""Pods without a cluster: `podling pod`, as podman's, and `podling play` of a Kubernetes manifest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

from e2e.hand import FOREVER, ByHand
from podling.linux.mounts import unmount_below
from podling.linux.processes import start_time
from podling.testing.cluster import eventually

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hello, index.html: "from the map"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  shareProcessNamespace: true
  hostAliases: [{ip: 192.0.2.1, hostnames: [elsewhere]}]
  initContainers:
  - name: first
    image: busybox
    command: [sh, -c, "echo first >> /work/order"]
    volumeMounts: [{name: work, mountPath: /work}]
  - name: second
    image: busybox
    command: [sh, -c, "test -e /work/tried || { touch /work/tried; exit 3; }; echo second >> /work/order"]
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c]
    args: ["echo $(GREETING) $PASSWORD $POD_IP; cat /keys/password; exec httpd -f -p 80 -h /www"]
    env:
    - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    ports: [{containerPort: 80, hostPort: 8088, hostIP: 127.0.0.1}]
    resources: {limits: {memory: 64Mi}}
    livenessProbe: {tcpSocket: {port: 80}}
    volumeMounts:
    - {name: map, mountPath: /www}
    - {name: keys, mountPath: /keys}
  - name: side
    image: busybox
    command: [sleep, "1000"]
    securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: work, mountPath: /order, subPath: order}]
  volumes:
  - {name: work, emptyDir: {}}
  - {name: map, configMap: {name: conf}}
  - {name: keys, secret: {secretName: keys}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: twins}
spec:
  replicas: 2
  selector: {matchLabels: {app: twins}}
  template:
    metadata: {labels: {app: twins}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: busybox, command: [sleep, "1000"]}]
"""
REFUSED = """
apiVersion: v1
kind: Service
metadata: {name: svc}
---
apiVersion: v1
kind: Pod
metadata: {name: odd}
spec:
  runtimeClassName: vm
  containers: [{name: c, image: busybox, lifecycle: {preStop: {exec: {command: [x]}}}}]
  volumes: [{name: claimed, persistentVolumeClaim: {claimName: c}}]
---
apiVersion: v1
kind: Pod
metadata: {name: typo}
spec: {containers: [{name: c, imagee: busybox}]}
"""


def test_containers_of_a_pod_share_what_pause_holds(hand: ByHand) -> None:
    pod_id = hand("pod", "create", "--name", "pod1", "-p", "127.0.0.1:8089:80", "--add-host", "a:192.0.2.9")
    hand("run", "-d", "--pod", "pod1", "--name", "one", *FOREVER)
    hand("run", "-d", "--pod", pod_id[:8], "--name", "two", *FOREVER)
    infra = f"{pod_id[:12]}-infra"
    for kind in ("net", "ipc", "uts"):
        assert len({hand.namespace(name, kind) for name in (infra, "one", "two")}) == 1
    assert len({hand.namespace(name, "pid") for name in (infra, "one", "two")}) == 3
    assert hand("exec", "one", "hostname") == "pod1"
    assert "192.0.2.9\ta" in hand("exec", "two", "cat", "/etc/hosts")
    assert hand.inspect("one")["HostConfig"]["NetworkMode"] == f"container:{pod_id}"
    (described,) = json.loads(hand("pod", "inspect", "pod1"))
    assert [one["Name"] for one in described["Containers"]] == [infra, "one", "two"]
    assert described["NetworkSettings"]["IPAddress"] == hand.ip(infra)
    (row,) = hand("pod", "ls").splitlines()[1:]
    assert row.split()[1:3] == ["pod1", "Running"]
    assert row.endswith(" 3")
    # The pod outlives its containers, and its containers their restart.
    os.kill(hand.pid("one"), signal.SIGKILL)

    def degraded() -> None:
        assert " Degraded " in hand("pod", "ls")

    eventually(degraded)
    assert hand.interfaces("two") == ["lo", "eth0"]
    hand("pod", "stop", "-t0", "pod1")
    assert " Exited " in hand("pod", "ls")
    hand("pod", "start", "pod1")
    assert hand.interfaces("one") == hand.interfaces("two") == ["lo", "eth0"]
    assert "is the infra container of pod pod1" in hand.refused("rm", "-f", infra)
    assert "is a pause container: there is nothing in it to run" in hand.refused("exec", infra, "true")
    assert "You cannot remove a running container" in hand.refused("pod", "rm", "pod1")
    hand("pod", "rm", "-f", "pod1")
    assert hand("ps", "-aq") == ""


def test_pods_are_refused_in_podmans_words(hand: ByHand) -> None:
    hand("run", "--pod", "new:pod1", "-p", "8090:80", "--rm", "busybox", "true")
    taken = hand.refused("pod", "create", "--name", "pod1", code=125)
    assert 'adding pod to state: name "pod1" is in use: pod already exists' in taken
    assert "already in use by a pod" in hand.refused("run", "-d", "--name", "pod1", *FOREVER, code=125)
    assert "--publish" in hand.refused("run", "--pod", "pod1", "-p", "8091:80", *FOREVER, code=125)
    nobody = "no pod with name or ID nobody found: no such pod"
    for command in (("pod", "rm"), ("pod", "stop"), ("pod", "start"), ("pod", "inspect")):
        assert nobody in hand.refused(*command, "nobody")
    assert nobody in hand.refused("run", "--pod", "nobody", *FOREVER, code=125)
    assert "port is already allocated" in hand.refused("pod", "create", "-p", "8090:80", code=125)
    assert hand("pod", "ls", "-q").split() == [hand("ps", "-q")]


def test_play_runs_a_manifest(hand: ByHand, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(MANIFEST)
    played = hand.run("play", str(file))
    assert played.returncode == 0, played.stderr
    assert "livenessProbe: ignored, nobody probes without a kubelet" in played.stderr
    assert "init container web-second exited with code 3: trying again" in played.stderr
    listed = {line.split()[1]: line.split()[2] for line in hand("pod", "ls").splitlines()[1:]}
    assert listed == {"web": "Running", "twins-pod-0": "Running", "twins-pod-1": "Running"}
    (web,) = json.loads(hand("pod", "inspect", "web"))
    address = web["NetworkSettings"]["IPAddress"]

    def logged() -> None:
        assert hand("logs", "web-main") == f"hello hunter2 {address}\nhunter2"

    eventually(logged)
    with urllib.request.urlopen("http://127.0.0.1:8088/", timeout=10) as page:
        assert page.read() == b"from the map"
    seen = hand("exec", "web-side", "sh", "-c", "cat /order /etc/hosts; id -u; ps; touch /x 2>&1; hostname")
    assert seen.startswith("first\nsecond\n127.0.0.1\tlocalhost\n")
    assert "192.0.2.1\telsewhere" in seen
    assert "/pause" in seen
    assert "\n1000\n" in seen
    assert "Read-only file system" in seen
    assert seen.endswith("\nweb")
    assert hand.inspect("web-main")["HostConfig"]["Memory"] == 64 << 20
    os.kill(hand.pid("web-side"), signal.SIGKILL)

    def again() -> None:
        assert hand.inspect("web-side")["RestartCount"] == 1
        assert hand.inspect("web-side")["State"]["Running"] is True

    eventually(again)
    assert 'name "web" is in use' in hand.refused("play", str(file), code=125)
    assert len(hand("play", "--down", "-", input=MANIFEST).splitlines()) == 4
    assert hand("ps", "-aq") == ""
    assert not any((hand.root / "pods").iterdir())


def test_play_names_all_that_needs_a_cluster(hand: ByHand, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(REFUSED)
    said = hand.refused("play", str(file))
    assert "Service/svc (v1): not supported without a cluster" in said
    for what in ("spec.containers[c].lifecycle.preStop", "spec.runtimeClassName", "persistentVolumeClaim"):
        assert what in said
    assert 'Pod/typo: unknown field "spec.containers[0].imagee"' in said
    assert "open /nowhere: No such file or directory" in hand.refused("play", "/nowhere")
    file.write_text("kind: [")
    assert "error parsing YAML" in hand.refused("play", str(file))


def test_what_cannot_be_played_leaves_nothing(hand: ByHand) -> None:
    """A missing config map is a ConfigError of the kubelet's; an init container that fails for good stays."""
    pod = """{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox", %s}]%s}}"""
    done = hand.run("play", "-", input=pod % ('"envFrom": [{"configMapRef": {"name": "none"}}]', ""))
    assert (done.returncode, done.stderr) == (125, 'Error: pod p: configmap "none" not found\n')
    assert hand("ps", "-aq") == ""
    init = (
        ', "initContainers": [{"name": "i", "image": "busybox", "command": ["sh", "-c", "echo why; exit 9"]}]'
    )
    done = hand.run("play", "-", input=pod % ('"command": ["true"]', init))
    assert "init container p-i exited with code 9: see `podling logs p-i`" in done.stderr
    assert hand("logs", "p-i") == "why"
    hand("play", "--down", "-", input=pod % ('"command": ["true"]', init))


def test_what_a_reboot_leaves_can_be_started_and_removed(hand: ByHand) -> None:
    """All processes, namespaces, mounts and /run are gone; /var/lib is not."""
    hand("play", "-", input=MANIFEST)
    hand("run", "-d", "--name", "single", *FOREVER)
    first = hand.ip("single")
    reboot(hand)
    assert [line.split()[2] for line in hand("pod", "ls").splitlines()[1:]] == ["Exited"] * 3
    assert hand.inspect("single")["State"]["Status"] == "exited"
    hand("start", "single")
    assert hand.ip("single")
    refused = hand.refused("exec", hand("pod", "ls", "-q").split()[0], "true")
    assert "is not running" in refused
    started = hand("start", "--all", "--filter", "restart-policy=always", "--filter", "name=twins-pod-0")
    assert started == hand.inspect("twins-pod-0-main")["Id"]
    assert hand.interfaces("single") == hand.interfaces("twins-pod-0-main") == ["lo", "eth0"]
    leases = [path.name for path in hand.root.glob("networks/podling/leases/byhand-podling/10.*")]
    assert len(leases) >= 2, (first, leases)
    assert len(hand("play", "--down", "-", input=MANIFEST).splitlines()) == 4
    hand("rm", "-f", "single")
    assert not list(hand.root.glob("networks/podling/leases/byhand-podling/10.*"))


def test_play_may_be_killed_at_any_moment(hand: ByHand) -> None:
    """What it has half made is a pod that --replace or --down removes, with its volumes and mounts."""
    argv = hand.argv("play", "--replace", "-")
    for wait_s in (0.3, 0.6, 0.9, 1.3, 1.8, 2.5):
        process = subprocess.Popen(
            argv, env=hand.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.stdin.write(MANIFEST.encode())
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait_s)
        process.kill()
        process.wait()
    hand("play", "--replace", "-", input=MANIFEST)

    def logged() -> None:
        assert hand("logs", "web-main").startswith("hello hunter2")

    eventually(logged)
    hand("play", "--down", "-", input=MANIFEST)
    assert not any((hand.root / "pods").iterdir())


def reboot(hand: ByHand) -> None:
    pids = [hand.pid(name) for name in hand("ps", "-q").split()]
    conmons = [pid for pid, words in processes() if f"{hand.run_dir}" in words and "--cid=" in words]
    assert len(conmons) == len(pids)
    for pid in (*conmons, *pids):  # conmon first: it would see to what its container leaves
        os.kill(pid, signal.SIGKILL)

    def dead() -> None:
        # Not by command lines: PID 1 of a shared namespace has none any more while it waits for the others.
        assert not [pid for pid in (*conmons, *pids) if start_time(pid) is not None]

    eventually(dead)
    for folder in (hand.run_dir, hand.root):
        unmount_below(folder)
    for folder in hand.run_dir.iterdir():
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    (network,) = json.loads(hand("network", "inspect", "podling"))
    bridge = network["Options"]["com.docker.network.bridge.name"]
    subprocess.run(["ip", "link", "del", bridge], check=True)


def processes() -> list[tuple[int, str]]:
    """Of all that are no zombies: PID and command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [(int(folder.name), words)] if words else []
    return found
