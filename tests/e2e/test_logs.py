"""`kubectl logs` in all its forms, on logs that are rotated, binary, partial, previous."""

from __future__ import annotations

import re
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from e2e.shorthand import container_status, ready
from podling.machine.kubectl import kubectl_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

LINES = 180_000
"""Some 12 MB with the log's own columns: more than the 10Mi from which a log is rotated."""
COUNT = f"""
awk 'BEGIN {{ for (i = 1; i <= {LINES}; i++) print "line " i " of many" }}'
until test -e /tmp/end; do sleep 0.1; done
echo the end
"""


def put_aside(cluster: PodlingCluster, node: str, pod: str) -> None:
    found = cluster.node(node, "sh", "-c", f"ls /var/log/pods/{pod}/*/")
    assert re.search(r"^0\.log\.\d{8}-\d{6}$", found, re.MULTILINE), found


def logs(cluster: PodlingCluster, namespace: str, *args: str) -> str:
    return cluster.kubectl("logs", "-n", namespace, *args)


def test_follow_goes_through_a_rotation_and_ends_with_the_container(
    cluster: PodlingCluster, namespace: str, tmp_path: Path
) -> None:
    body = pod("flood", busybox(command=COUNT), namespace=namespace, restartPolicy="Never")
    cluster.apply(body)
    ready(cluster, namespace, "flood")
    seen = tmp_path / "seen"
    argv = [str(kubectl_path(cluster.kubectl_version)), "logs", "-n", namespace, "-f", "flood"]
    with seen.open("wb") as file, subprocess.Popen(argv, stdout=file, env=cluster.env) as reader:
        try:
            node = cluster.get("pod", "flood", "-n", namespace)["spec"]["nodeName"]
            eventually(lambda: put_aside(cluster, node, f"{namespace}_flood_*"), timeout_s=60)
            cluster.kubectl("exec", "-n", namespace, "flood", "--", "touch", "/tmp/end")
            assert reader.wait(timeout=60) == 0
        finally:
            reader.kill()
    lines = seen.read_text().splitlines()
    assert lines[-1] == "the end"
    assert lines[:-1] == [f"line {n} of many" for n in range(1, LINES + 1)]
    # Without following one gets what was written since, as on any cluster.
    assert logs(cluster, namespace, "flood").splitlines()[-1] == "the end"


def test_the_words_of_kubectl_logs(cluster: PodlingCluster, namespace: str) -> None:
    # Streams may come in any order, and parts of their lines between each other: apart by time.
    script = "echo one; sleep 1.5; echo two; sleep 0.3; echo err >&2; sleep 0.3"
    script += "; printf half; sleep 0.1; echo ' line'; exec sleep 1000"
    containers = [busybox(command=script), busybox("side", "echo mine; exec sleep 1000")]
    cluster.apply(pod("words", *containers, namespace=namespace, terminationGracePeriodSeconds=0))
    ready(cluster, namespace, "words")
    first = containers[0]["name"]

    def complete() -> None:
        assert "half line" in logs(cluster, namespace, "words", "-c", first)

    eventually(complete)
    which = ("words", "-c", first)
    assert sorted(logs(cluster, namespace, *which).splitlines()) == ["err", "half line", "one", "two"]
    assert logs(cluster, namespace, *which, "--tail=1") == "half line\n"
    assert logs(cluster, namespace, *which, "--tail=0") == ""
    assert logs(cluster, namespace, *which, "--limit-bytes=5") == "one\nt"
    stamped = logs(cluster, namespace, *which, "--timestamps").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z ", line) for line in stamped)
    start = datetime.fromisoformat(stamped[0].split()[0][:26] + "+00:00")
    after = (start + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    assert "one" not in logs(cluster, namespace, *which, f"--since-time={after}")
    assert "two" in logs(cluster, namespace, *which, f"--since-time={after}")
    assert "one" in logs(cluster, namespace, *which, "--since=1h")
    every = logs(cluster, namespace, "words", "--all-containers", "--prefix").splitlines()
    assert "[pod/words/side] mine" in every
    assert f"[pod/words/{first}] one" in every


def test_previous_is_the_run_before(cluster: PodlingCluster, namespace: str) -> None:
    script = "touch /count/n; echo run $(cat /count/n); echo x >> /count/n"
    script += "; test $(wc -l < /count/n) -ge 2 && exec sleep 1000"
    mount = [{"name": "count", "mountPath": "/count"}]
    volumes = [{"name": "count", "emptyDir": {}}]
    again = pod(
        "again",
        busybox(command=script, volumeMounts=mount),
        namespace=namespace,
        volumes=volumes,
        terminationGracePeriodSeconds=0,
    )
    cluster.apply(again)
    name = again["spec"]["containers"][0]["name"]

    def second() -> None:
        status = container_status(cluster, namespace, "again", name)
        assert (status.get("restartCount"), "running" in status.get("state", {})) == (1, True)

    eventually(second, timeout_s=30)
    assert logs(cluster, namespace, "again", "--previous").split() == ["run"]
    assert logs(cluster, namespace, "again").split() == ["run", "x"]


def test_binary_comes_unchanged(cluster: PodlingCluster, namespace: str) -> None:
    fill = "head -c 300000 /dev/urandom > /tmp/x; head -c 300000 /dev/zero >> /tmp/x"
    script = f"{fill}; cat /tmp/x; exec sleep 1000"
    cluster.apply(pod("bytes", busybox(command=script), namespace=namespace, terminationGracePeriodSeconds=0))
    ready(cluster, namespace, "bytes")

    def run(*args: str) -> bytes:
        argv = [str(kubectl_path(cluster.kubectl_version)), "-n", namespace, *args]
        return subprocess.run(argv, env=cluster.env, capture_output=True, check=True, timeout=60).stdout

    def complete() -> None:
        assert len(run("logs", "bytes")) == 600_000

    eventually(complete)
    assert run("logs", "bytes") == run("exec", "bytes", "--", "cat", "/tmp/x")
