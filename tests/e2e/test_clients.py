"""Clients people already have: kubectl, oldest and newest, over both streaming protocols, and the
`kubernetes` Python client. One pod serves them all."""

from __future__ import annotations

import gc
import hashlib
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

from e2e.shorthand import inside, ready
from e2e.terminal import Terminal
from podling.machine.kubectl import KubectlNotFoundError, kubectl_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

# The Python client leaves the sockets of its streams to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

SERVER = "mkdir /www && echo hello from the pod > /www/index.html && exec httpd -f -p 8080 -h /www"
TALKER = "echo started; echo to-stderr >&2; i=0; while sleep 1; do i=$((i+1)); echo tick $i; done"


@dataclass(frozen=True)
class Flavour:
    """A kubectl version and the protocol it is made to speak."""

    version: str
    websocket: bool

    def __str__(self) -> str:
        return f"{self.version}-{'websocket' if self.websocket else 'spdy'}"


FLAVOURS = [
    Flavour("1.27", websocket=False),
    Flavour("1.37", websocket=False),
    Flavour("1.37", websocket=True),
]


@dataclass(frozen=True)
class Kubectl:
    """One kubectl, in the namespace of the shared pod."""

    cluster: PodlingCluster
    namespace: str
    flavour: Flavour

    @property
    def env(self) -> dict[str, str]:
        websocket = str(self.flavour.websocket).lower()
        return {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websocket, "KUBECTL_PORT_FORWARD_WEBSOCKETS": websocket}

    def argv(self, *args: str) -> list[str]:
        return [str(kubectl_path(self.flavour.version)), "-n", self.namespace, *args]

    def run(
        self, *args: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self.cluster.kubectl_run(
            *("-n", self.namespace, *args),
            version=self.flavour.version,
            input=input,
            check=check,
            env=self.env,
        )

    @contextmanager
    def background(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        env = {**self.cluster.env, **self.env}
        with subprocess.Popen(
            self.argv(*args), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def home(cluster: PodlingCluster, module_namespace: str) -> str:
    """The namespace of the pod `served`: a web server, and a container that talks."""
    cluster.apply(
        pod("served", busybox("web", SERVER), busybox("talker", TALKER), namespace=module_namespace)
    )
    ready(cluster, module_namespace, "served")
    return module_namespace


@pytest.fixture(scope="module", params=FLAVOURS, ids=str)
def kubectl(request: pytest.FixtureRequest, cluster: PodlingCluster, home: str) -> Kubectl:
    try:
        kubectl_path(request.param.version)
    except KubectlNotFoundError as err:
        pytest.skip(f"needs kubectl {request.param.version}: {err}")
    return Kubectl(cluster, home, request.param)


# kubectl


def test_kubectl_applies_changes_shows_and_deletes(kubectl: Kubectl, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"

    def apply(data: str) -> str:
        manifest.write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied}}\ndata: {data}\n")
        return kubectl.run("apply", "-f", str(manifest)).stdout

    assert apply("{a: one, b: two}") == "configmap/applied created\n"
    assert apply("{a: one, b: two}") == "configmap/applied unchanged\n"
    assert apply("{a: three}") == "configmap/applied configured\n"
    assert kubectl.run("get", "cm", "applied", "-o", "jsonpath={.data}").stdout == '{"a":"three"}'
    assert "deleted" in kubectl.run("delete", "-f", str(manifest)).stdout


def test_kubectl_gets_wide_tables(kubectl: Kubectl) -> None:
    header, row = kubectl.run("get", "pod", "served", "-o", "wide").stdout.splitlines()
    assert re.split(r" {2,}", header.strip())[-5:] == [
        *("AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
    ]
    assert re.match(r"served +2/2 +Running +0 +\S+ +10\.\d+\.\d+\.\d+ +kube-node-\d +<none> +<none>", row)


def test_kubectl_execs(kubectl: Kubectl) -> None:
    done = kubectl.run(
        "exec", "served", "-c", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False
    )
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.splitlines() == ["err", "command terminated with exit code 7"]
    typed = "".join(f"line {n}\n" for n in range(20_000))
    echoed = kubectl.run("exec", "-i", "served", "-c", "web", "--", "cat", input=typed)
    assert echoed.stdout == typed


def test_the_newest_kubectl_execs_over_websocket_without_falling_back(kubectl: Kubectl) -> None:
    done = kubectl.run("exec", "-v=8", "served", "-c", "web", "--", "true")
    upgraded = "Upgrade: websocket" in done.stderr
    assert upgraded == kubectl.flavour.websocket
    assert done.stderr.count("101 Switching Protocols") == 1


def test_kubectl_exec_on_a_terminal_knows_its_size(kubectl: Kubectl) -> None:
    argv = kubectl.argv("exec", "-it", "served", "-c", "web", "--", "sh")
    with Terminal(argv, {**kubectl.cluster.env, **kubectl.env}, rows=31, columns=97) as terminal:
        terminal.expect("# ")
        terminal.type("tty; stty size; echo done-$((40+2))\n")
        seen = terminal.expect("done-42")
        assert "/dev/pts/" in seen
        assert "31 97" in seen
        terminal.resize(40, 120)
        terminal.type("while [ \"$(stty size)\" != '40 120' ]; do :; done; echo resized-$((40+2))\n")
        terminal.expect("resized-42")
        terminal.type("exit 9\n")
        assert terminal.wait() == 9


def test_kubectl_shows_and_follows_logs(kubectl: Kubectl) -> None:
    text = kubectl.run("logs", "served", "-c", "talker").stdout
    assert "started" in text
    assert "to-stderr" in text
    assert kubectl.run("logs", "served", "-c", "talker", "--tail=1").stdout.count("\n") == 1
    stamped = kubectl.run("logs", "served", "-c", "talker", "--timestamps", "--tail=1").stdout
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z tick \d+\n", stamped)
    prefixed = kubectl.run("logs", "served", "--all-containers", "--prefix", "--tail=1").stdout
    assert "[pod/served/talker] tick" in prefixed
    with kubectl.background("logs", "-f", "served", "-c", "talker", "--tail=1") as following:
        assert following.stdout is not None
        first, second = (int(following.stdout.readline().removeprefix("tick ")) for _ in range(2))
        assert second == first + 1


def test_kubectl_copies_files_both_ways(kubectl: Kubectl, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "there").write_bytes(content)
    kubectl.run("cp", str(tmp_path / "there"), "served:/tmp/copied", "-c", "web")
    digest = inside(kubectl.cluster, kubectl.namespace, "served", "sha256sum /tmp/copied", container="web")
    assert digest.split()[0] == hashlib.sha256(content).hexdigest()
    kubectl.run("cp", "served:/tmp/copied", str(tmp_path / "back"), "-c", "web")
    assert (tmp_path / "back").read_bytes() == content
    kubectl.run("cp", "served:/www", str(tmp_path / "www"), "-c", "web")
    assert (tmp_path / "www" / "index.html").read_text() == "hello from the pod\n"


def test_kubectl_forwards_a_port(kubectl: Kubectl) -> None:
    inside(
        kubectl.cluster,
        kubectl.namespace,
        "served",
        "yes podling | head -c 3000000 > /www/big",
        container="web",
    )
    with kubectl.background("port-forward", "pod/served", ":8080", "--address=127.0.0.1") as forwarding:
        assert forwarding.stdout is not None
        line = forwarding.stdout.readline()
        found = re.fullmatch(r"Forwarding from 127\.0\.0\.1:(\d+) -> 8080\n", line)
        assert found is not None, line
        url = f"http://127.0.0.1:{found[1]}"
        assert fetch(f"{url}/") == b"hello from the pod\n"
        assert fetch(f"{url}/big") == (b"podling\n" * 375_000)
        # One session serves many connections, also at once.
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(fetch(f"{url}/big"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(answer) for answer in answers] == [3_000_000] * 4


def fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        body: bytes = answer.read()
    return body


def test_kubectl_attaches_to_a_containers_input_and_output(kubectl: Kubectl) -> None:
    name = f"attached-{kubectl.flavour}".replace(".", "-")
    cat = busybox("cat", "echo waiting; exec cat", stdin=True, stdinOnce=True)
    kubectl.cluster.apply(pod(name, cat, namespace=kubectl.namespace, restartPolicy="Never"))
    ready(kubectl.cluster, kubectl.namespace, name)
    done = kubectl.run("attach", "-i", name, input="one\ntwo\n")
    assert done.stdout.endswith("one\ntwo\n")
    kubectl.run("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=20s")


def test_kubectl_attach_without_input_only_listens(kubectl: Kubectl) -> None:
    with kubectl.background("attach", "served", "-c", "talker") as listening:
        assert listening.stdout is not None
        while not (line := listening.stdout.readline()).startswith("tick"):
            assert line, "attach ended"
    assert kubectl.run("get", "pod", "served", "-o", "jsonpath={.status.phase}").stdout == "Running"


# The kubernetes Python client


@pytest.fixture(scope="module")
def core(cluster: PodlingCluster) -> Iterator[Any]:
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(cluster.kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as client:
        yield kubernetes.client.CoreV1Api(client)


@pytest.fixture
def api(core: Any) -> Iterator[Any]:
    yield core
    gc.collect()  # here, where the warnings of its forgotten sockets are expected


def python_pod(name: str, command: str = "exec sleep 3600") -> Any:
    model = kubernetes.client
    return model.V1Pod(
        metadata=model.V1ObjectMeta(name=name, labels={"by": "python"}),
        spec=model.V1PodSpec(
            termination_grace_period_seconds=1,
            containers=[
                model.V1Container(
                    name="main",
                    image="busybox",
                    image_pull_policy="IfNotPresent",
                    command=["sh", "-c", command],
                )
            ],
        ),
    )


def test_python_lists_creates_patches_replaces_and_deletes(api: Any, namespace: str) -> None:
    nodes = api.list_node()
    assert {node.metadata.name for node in nodes.items} >= {"kube-master", "kube-node-1"}
    assert all(node.status.node_info.kubelet_version for node in nodes.items)
    model = kubernetes.client.V1ConfigMap(
        metadata=kubernetes.client.V1ObjectMeta(name="made"), data={"a": "1"}
    )
    made = api.create_namespaced_config_map(namespace, model)
    patched = api.patch_namespaced_config_map("made", namespace, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    assert patched.metadata.uid == made.metadata.uid
    with pytest.raises(ApiException) as conflict:
        api.replace_namespaced_config_map("made", namespace, made)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version" in str(
        conflict.value.body
    )
    patched.data = {"only": "this"}
    assert api.replace_namespaced_config_map("made", namespace, patched).data == {"only": "this"}
    api.delete_namespaced_config_map("made", namespace)
    with pytest.raises(ApiException) as missing:
        api.read_namespaced_config_map("made", namespace)
    assert missing.value.status == 404


def test_python_watches_a_pods_whole_life(api: Any, namespace: str) -> None:
    version = api.list_namespaced_pod(namespace).metadata.resource_version
    api.create_namespaced_pod(namespace, python_pod("watched"))
    seen: list[str] = []
    watch = kubernetes.watch.Watch()
    for event in watch.stream(
        api.list_namespaced_pod,
        namespace,
        resource_version=version,
        label_selector="by=python",
        timeout_seconds=30,
    ):
        found = event["object"]
        seen.append(f"{event['type']} {found.status.phase}")
        if found.status.phase == "Running" and not found.metadata.deletion_timestamp:
            api.delete_namespaced_pod("watched", namespace, grace_period_seconds=1)
        if event["type"] == "DELETED":
            watch.stop()
    assert seen[0] == "ADDED Pending"
    assert "MODIFIED Running" in seen
    assert seen[-1].startswith("DELETED")


def test_python_watch_from_too_old_a_version_says_410(api: Any, namespace: str) -> None:
    watch = kubernetes.watch.Watch()
    with pytest.raises(ApiException) as gone:
        for _ in watch.stream(
            api.list_namespaced_pod, namespace, resource_version="999999999", timeout_seconds=5
        ):
            pass
    assert gone.value.status in (410, 504)


def test_python_execs_and_reads_logs(api: Any, home: str) -> None:
    out = stream(
        api.connect_get_namespaced_pod_exec,
        "served",
        home,
        container="web",
        command=["sh", "-c", "echo out; echo err >&2"],
        stdout=True,
        stderr=True,
        stdin=False,
        tty=False,
    )
    assert sorted(out.split()) == ["err", "out"]
    log = api.read_namespaced_pod_log("served", home, container="talker", tail_lines=2)
    assert len(log.splitlines()) == 2
    lines = kubernetes.watch.Watch().stream(
        api.read_namespaced_pod_log, "served", home, container="talker", tail_lines=1
    )
    first, second = next(lines), next(lines)
    assert first.startswith("tick")
    assert second.startswith("tick")


def test_python_talks_with_an_interactive_command(api: Any, home: str) -> None:
    shell = stream(
        api.connect_get_namespaced_pod_exec,
        "served",
        home,
        container="web",
        command=["sh"],
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    shell.write_stdin("echo $((6*7))\n")
    assert shell.readline_stdout(timeout=10) == "42"
    shell.write_stdin("echo oops >&2\n")
    assert shell.readline_stderr(timeout=10) == "oops"
    shell.write_stdin("exit 5\n")
    shell.run_forever(timeout=10)
    assert shell.returncode == 5
    shell.close()


def test_python_forwards_a_port(api: Any, home: str) -> None:
    forward = portforward(api.connect_get_namespaced_pod_portforward, "served", home, ports="8080")
    connection = forward.socket(8080)
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while chunk := connection.recv(4096):
        answer += chunk
    assert answer.endswith(b"\r\n\r\nhello from the pod\n")
    assert forward.error(8080) is None
    connection.close()


def test_python_discovers_kinds_and_uses_them_dynamically(api: Any, namespace: str) -> None:
    dynamic = kubernetes.dynamic.DynamicClient(api.api_client)
    leases = dynamic.resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
    assert {lease.metadata.name for lease in leases.get(namespace="kube-node-lease").items} >= {"kube-master"}
    pods = dynamic.resources.get(api_version="v1", kind="Pod")
    body = api.api_client.sanitize_for_serialization(python_pod("dynamic"))
    made = pods.create(namespace=namespace, body=body)
    assert made.metadata.uid
    pods.patch(
        namespace=namespace,
        name="dynamic",
        body={"metadata": {"labels": {"patched": "yes"}}},
        content_type="application/merge-patch+json",
    )
    assert pods.get(namespace=namespace, name="dynamic").metadata.labels.patched == "yes"
    assert len(pods.get(namespace=namespace, label_selector="patched=yes").items) == 1
    pods.delete(namespace=namespace, name="dynamic", grace_period_seconds=0)

    def missing() -> None:
        assert not pods.get(namespace=namespace).items

    eventually(missing)


def test_python_pages_through_a_long_list(api: Any, namespace: str) -> None:
    for n in range(7):
        api.create_namespaced_config_map(
            namespace, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"cm-{n}"}}
        )
    names: list[str] = []
    token: str | None = None
    pages = 0
    while token != "":
        page = api.list_namespaced_config_map(namespace, limit=3, _continue=token or "")
        names += [item.metadata.name for item in page.items if item.metadata.name.startswith("cm-")]
        token = page.metadata._continue or ""
        pages += 1
    assert names == [f"cm-{n}" for n in range(7)]
    assert pages == 3
