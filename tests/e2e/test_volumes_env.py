"""What a container finds inside: files, environment, addresses, limits, users, and when it counts as ready.

The tests share a few pods, started together; each test looks at one thing in them.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from ipaddress import ip_network

import pytest

from e2e.shorthand import container_status, inside, ready, wait_event
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

NODE = "kube-node-1"
HOST_DIR = "/run/podling-host-path"

RICH = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data:
  color: blue
  size: "10"
  app.conf: |
    listen 80
binaryData:
  raw: AAEC
---
apiVersion: v1
kind: Secret
metadata: {{name: keys}}
stringData:
  password: s3cret
  token: t0ken
---
apiVersion: v1
kind: Pod
metadata:
  name: rich
  labels: {{app: rich, tier: test}}
  annotations: {{note: a "quoted" note}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  hostAliases:
  - {{ip: 10.1.2.3, hostnames: [one.example, two.example]}}
  initContainers:
  - name: init-1
    image: busybox
    command: [sh, -c, sleep 0.3; echo init-1 >> /shared/order]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  - name: sidecar
    image: busybox
    restartPolicy: Always
    command: [sh, -c, echo sidecar >> /shared/order; exec sleep 3600]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
    startupProbe: {{exec: {{command: [test, -f, /shared/order]}}, periodSeconds: 1}}
  - name: init-2
    image: busybox
    command: [sh, -c, echo init-2 >> /shared/order]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, echo main >> /shared/order; exec sleep 3600]
    resources:
      requests: {{cpu: 100m, memory: 32Mi}}
      limits: {{cpu: 200m, memory: 64Mi}}
    envFrom:
    - {{prefix: CFG_, configMapRef: {{name: settings}}}}
    - {{secretRef: {{name: keys}}}}
    - {{configMapRef: {{name: not-there, optional: true}}}}
    env:
    - {{name: PLAIN, value: plain}}
    - {{name: REFERS, value: $(PLAIN)-$(NOT_THERE)-$$(PLAIN)}}
    - {{name: password, value: overridden}}
    - {{name: COLOR, valueFrom: {{configMapKeyRef: {{name: settings, key: color}}}}}}
    - {{name: TOKEN, valueFrom: {{secretKeyRef: {{name: keys, key: token}}}}}}
    - {{name: UNSET, valueFrom: {{secretKeyRef: {{name: keys, key: none, optional: true}}}}}}
    - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
    - {{name: POD_UID, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}
    - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: HOST_IP, valueFrom: {{fieldRef: {{fieldPath: status.hostIP}}}}}}
    - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: ACCOUNT, valueFrom: {{fieldRef: {{fieldPath: spec.serviceAccountName}}}}}}
    - {{name: TIER, valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['tier']"}}}}}}
    - {{name: NOTE, valueFrom: {{fieldRef: {{fieldPath: "metadata.annotations['note']"}}}}}}
    - {{name: CPU_LIMIT, valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}}}
    - {{name: CPU_CEIL, valueFrom: {{resourceFieldRef: {{resource: limits.cpu}}}}}}
    - {{name: MEMORY_LIMIT, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}
    - {{name: MEMORY_REQUEST, valueFrom: {{resourceFieldRef: {{resource: requests.memory, divisor: 1Mi}}}}}}
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: memory, mountPath: /memory}}
    - {{name: settings, mountPath: /settings}}
    - {{name: one-setting, mountPath: /one}}
    - {{name: settings, mountPath: /etc/app.conf, subPath: app.conf}}
    - {{name: keys, mountPath: /keys}}
    - {{name: about, mountPath: /about}}
    - {{name: mixed, mountPath: /mixed}}
    - {{name: from-host, mountPath: /from-host}}
    - {{name: from-host, mountPath: /from-host-ro, readOnly: true}}
    - {{name: shared, mountPath: /below, subPath: a/b}}
    - {{name: not-there, mountPath: /not-there}}
  - name: side
    image: busybox
    command: [sleep, "3600"]
    volumeMounts: [{{name: shared, mountPath: /elsewhere}}]
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: one-setting, configMap: {{name: settings, items: [{{key: color, path: deep/c, mode: 0400}}]}}}}
  - {{name: keys, secret: {{secretName: keys, defaultMode: 0400}}}}
  - {{name: from-host, hostPath: {{path: {HOST_DIR}, type: DirectoryOrCreate}}}}
  - {{name: not-there, configMap: {{name: not-there, optional: true}}}}
  - name: about
    downwardAPI:
      items:
      - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
      - {{path: annotations, fieldRef: {{fieldPath: metadata.annotations}}}}
      - {{path: name, fieldRef: {{fieldPath: metadata.name}}}}
      - {{path: cpu, resourceFieldRef: {{containerName: main, resource: requests.cpu, divisor: 1m}}}}
  - name: mixed
    projected:
      sources:
      - configMap: {{name: settings, items: [{{key: color, path: color}}]}}
      - secret: {{name: keys, items: [{{key: token, path: token}}]}}
      - downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}
"""

SECURE = f"""
apiVersion: v1
kind: Pod
metadata: {{name: secure}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  dnsPolicy: None
  dnsConfig:
    nameservers: [192.0.2.53]
    searches: [lab.example]
    options: [{{name: ndots, value: "2"}}, {{name: edns0}}]
  securityContext: {{runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]}}
  containers:
  - name: strict
    image: busybox
    command: [sleep, "3600"]
    securityContext:
      runAsNonRoot: true
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {{drop: [ALL], add: [NET_BIND_SERVICE]}}
      seccompProfile: {{type: RuntimeDefault}}
    volumeMounts: [{{name: work, mountPath: /work}}]
  - name: plain
    image: busybox
    command: [sleep, "3600"]
    securityContext: {{runAsUser: 0, runAsGroup: 0}}
  - name: unconfined
    image: busybox
    command: [sleep, "3600"]
    securityContext:
      runAsUser: 0
      capabilities: {{add: [SYS_TIME], drop: [CHOWN]}}
      seccompProfile: {{type: Unconfined}}
  - name: privileged
    image: busybox
    command: [sleep, "3600"]
    securityContext: {{runAsUser: 0, privileged: true}}
  volumes: [{{name: work, emptyDir: {{}}}}]
"""

HOSTLY = f"""
apiVersion: v1
kind: Pod
metadata: {{name: hostly}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers:
  - {{name: main, image: busybox, command: [sleep, "3600"]}}
"""

CAP_CHOWN, CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN, CAP_SYS_TIME = 0, 10, 21, 25
DEFAULT_CAPABILITIES = 0x00000000A80425FB
"""What containerd, CRI-O and docker give a container that asks for nothing."""


@pytest.fixture(scope="module")
def home(cluster: PodlingCluster, module_namespace: str) -> str:
    """The namespace in which the three pods run."""
    for manifest in (RICH, SECURE, HOSTLY):
        cluster.apply(manifest, "-n", module_namespace)
    ready(cluster, module_namespace, "rich", "secure", "hostly")
    return module_namespace


# Environment


def test_environment_comes_from_values_objects_and_the_pod_itself(cluster: PodlingCluster, home: str) -> None:
    lines = inside(cluster, home, "rich", "env", container="main").splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    found = cluster.get("pod", "rich", "-n", home)
    expected = {
        "PLAIN": "plain",
        "REFERS": "plain-$(NOT_THERE)-$(PLAIN)",
        "CFG_color": "blue",
        "CFG_size": "10",
        "password": "overridden",
        "token": "t0ken",
        "COLOR": "blue",
        "TOKEN": "t0ken",
        "POD_NAME": "rich",
        "POD_NAMESPACE": home,
        "POD_UID": found["metadata"]["uid"],
        "POD_IP": found["status"]["podIP"],
        "HOST_IP": found["status"]["hostIP"],
        "NODE_NAME": NODE,
        "ACCOUNT": "default",
        "TIER": "test",
        "NOTE": 'a "quoted" note',
        "CPU_LIMIT": "200",
        "CPU_CEIL": "1",
        "MEMORY_LIMIT": str(64 << 20),
        "MEMORY_REQUEST": "32",
        "HOSTNAME": "rich",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert "UNSET" not in env


def test_every_container_is_told_where_the_api_server_is(cluster: PodlingCluster, home: str) -> None:
    service = cluster.get("service", "kubernetes", "-n", "default")["spec"]
    out = inside(cluster, home, "rich", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")
    assert out == f"{service['clusterIP']}:{service['ports'][0]['port']}"


# Volumes


def test_an_empty_dir_is_one_directory_for_all_containers(cluster: PodlingCluster, home: str) -> None:
    inside(cluster, home, "rich", "echo hello > /shared/greeting", container="main")
    assert inside(cluster, home, "rich", "cat /elsewhere/greeting", container="side") == "hello"
    assert inside(cluster, home, "rich", "stat -c %a /shared", container="main") == "777"
    inside(cluster, home, "rich", "echo deep > /below/file", container="main")
    assert inside(cluster, home, "rich", "cat /elsewhere/a/b/file", container="side") == "deep"


def test_medium_memory_is_a_tmpfs_of_the_size_asked_for(cluster: PodlingCluster, home: str) -> None:
    kind, size_kib = inside(
        cluster, home, "rich", "df -T -k /memory | tail -1 | awk '{print $2, $3}'", container="main"
    ).split()
    assert (kind, size_kib) == ("tmpfs", "1024")
    out = inside(cluster, home, "rich", "dd if=/dev/zero of=/memory/x bs=64k 2>&1; rm /memory/x; true")
    assert "No space left on device" in out


def test_config_map_and_secret_volumes_show_their_keys_as_files(cluster: PodlingCluster, home: str) -> None:
    def run(script: str) -> str:
        return inside(cluster, home, "rich", script, container="main")

    assert run("ls /settings").split() == ["app.conf", "color", "raw", "size"]
    assert run("cat /settings/app.conf /settings/color") == "listen 80\nblue"
    assert run("od -An -tx1 /settings/raw").split() == ["00", "01", "02"]
    assert run("readlink /settings/color") == "..data/color"
    assert run("cat /one/deep/c; echo; stat -L -c %a /one/deep/c") == "blue\n400"
    assert run("cat /etc/app.conf") == "listen 80"
    assert run("cat /keys/password; echo; stat -L -c %a /keys/password") == "s3cret\n400"
    assert run("cat /mixed/color /mixed/token /mixed/name") == "bluet0kenrich"
    assert run("ls /not-there") == ""
    assert "Read-only file system" in run("touch /settings/new 2>&1; true")


def test_secrets_never_touch_a_disk(cluster: PodlingCluster, home: str) -> None:
    out = inside(cluster, home, "rich", "df -T /keys/password | tail -1 | awk '{print $2}'", container="main")
    assert out == "tmpfs"


def test_downward_api_files_tell_about_the_pod(cluster: PodlingCluster, home: str) -> None:
    def file(name: str) -> str:
        return inside(cluster, home, "rich", f"cat /about/{name}", container="main")

    assert file("labels") == 'app="rich"\ntier="test"'
    assert 'note="a \\"quoted\\" note"' in file("annotations").splitlines()
    assert file("name") == "rich"
    assert file("cpu") == "100"


def test_a_host_path_is_the_nodes_own_directory(cluster: PodlingCluster, home: str) -> None:
    inside(cluster, home, "rich", "echo from the pod > /from-host/a", container="main")
    assert cluster.node(NODE, "cat", f"{HOST_DIR}/a") == "from the pod\n"
    cluster.node(NODE, "sh", "-c", f"echo from the node > {HOST_DIR}/b")
    assert inside(cluster, home, "rich", "cat /from-host-ro/b", container="main") == "from the node"
    out = inside(cluster, home, "rich", "touch /from-host-ro/c 2>&1; true", container="main")
    assert "Read-only file system" in out


def test_a_changed_config_map_reaches_the_running_container(cluster: PodlingCluster, home: str) -> None:
    cluster.kubectl("create", "configmap", "live", "-n", home, "--from-literal=value=old")
    mount = {"name": "live", "mountPath": "/live"}
    cluster.apply(
        pod(
            "watching",
            busybox("main", volumeMounts=[mount]),
            namespace=home,
            volumes=[{"name": "live", "configMap": {"name": "live"}}],
        )
    )
    ready(cluster, home, "watching")
    assert inside(cluster, home, "watching", "cat /live/value") == "old"
    cluster.kubectl("patch", "configmap", "live", "-n", home, "-p", '{"data": {"value": "new"}}')
    # The documented way not to wait for the kubelet's next round.
    cluster.kubectl("annotate", "pod", "watching", "-n", home, "look=again")

    def seen() -> None:
        assert inside(cluster, home, "watching", "cat /live/value") == "new"

    eventually(seen)


# Names and addresses


def test_etc_hosts_names_the_pod_and_its_aliases(cluster: PodlingCluster, home: str) -> None:
    ip = cluster.get("pod", "rich", "-n", home)["status"]["podIP"]
    lines = inside(cluster, home, "rich", "cat /etc/hosts").splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert "127.0.0.1\tlocalhost" in lines
    assert f"{ip}\trich" in lines
    assert lines[-2:] == ["# Entries added by HostAliases.", "10.1.2.3\tone.example\ttwo.example"]
    assert inside(cluster, home, "rich", "cat /etc/hostname; hostname") == "rich\nrich"
    shared = inside(cluster, home, "rich", "cat /etc/hosts", container="side").splitlines()
    assert shared == lines


def test_resolv_conf_follows_the_dns_policy(cluster: PodlingCluster, home: str) -> None:
    lines = inside(cluster, home, "rich", "cat /etc/resolv.conf").splitlines()
    (server,) = [line.split()[1] for line in lines if line.startswith("nameserver")]
    service_ip = cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    assert server in map(str, ip_network(f"{service_ip}/24", strict=False))
    (search,) = [line.split()[1:] for line in lines if line.startswith("search")]
    assert search[:3] == [f"{home}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    assert "options ndots:5" in lines
    own = inside(cluster, home, "secure", "cat /etc/resolv.conf").splitlines()
    assert sorted(own) == ["nameserver 192.0.2.53", "options ndots:2 edns0", "search lab.example"]


# Limits


def test_requests_and_limits_are_the_containers_cgroup_values(cluster: PodlingCluster, home: str) -> None:
    script = (
        "cd /sys/fs/cgroup; if [ -e cgroup.controllers ]; then cat memory.max cpu.max cpu.weight; "
        "else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares; fi"
    )
    memory, quota, period, share = inside(cluster, home, "rich", script, container="main").split()
    assert (memory, quota, period) == (str(64 << 20), "20000", "100000")
    # cgroup v1: 100m of 1024 shares; v2: its weight by the old or the new formula of the OCI runtimes.
    assert share in ("102", "4", "17")


def test_a_container_over_its_memory_limit_is_oom_killed(cluster: PodlingCluster, namespace: str) -> None:
    hungry = busybox("main", "tail /dev/zero", resources={"limits": {"memory": "16Mi"}})
    cluster.apply(pod("hungry", hungry, namespace=namespace, restartPolicy="Never"))

    def killed() -> None:
        state = container_status(cluster, namespace, "hungry", "main").get("state", {})
        assert state.get("terminated", {}).get("exitCode") == 137
        assert state["terminated"]["reason"] == "OOMKilled"

    eventually(killed)
    assert "OOMKilled" in cluster.kubectl("get", "pod", "hungry", "-n", namespace)


# Init containers


def test_init_containers_run_in_order_before_the_others(cluster: PodlingCluster, home: str) -> None:
    order = inside(cluster, home, "rich", "cat /shared/order", container="main").split()
    assert order == ["init-1", "sidecar", "init-2", "main"]
    status = cluster.get("pod", "rich", "-n", home)["status"]
    one, sidecar, two = status["initContainerStatuses"]
    main = status["containerStatuses"][0]
    assert one["state"]["terminated"]["reason"] == two["state"]["terminated"]["reason"] == "Completed"
    assert "running" in sidecar["state"]
    times = [
        one["state"]["terminated"]["finishedAt"],
        sidecar["state"]["running"]["startedAt"],
        two["state"]["terminated"]["startedAt"],
        main["state"]["running"]["startedAt"],
    ]
    assert times == sorted(times, key=datetime.fromisoformat)
    assert "3/3" in cluster.kubectl("get", "pod", "rich", "-n", home)


def test_a_failed_init_container_keeps_the_others_from_starting(
    cluster: PodlingCluster, namespace: str
) -> None:
    fails = busybox("fails", "echo no good; exit 4")
    cluster.apply(
        pod("broken", busybox("main"), namespace=namespace, restartPolicy="Never", initContainers=[fails])
    )
    cluster.kubectl("wait", "-n", namespace, "pod/broken", "--for=jsonpath={.status.phase}=Failed")
    assert re.search(r"^broken +0/1 +Init:Error +0 ", cluster.kubectl("get", "pods", "-n", namespace), re.M)
    main = container_status(cluster, namespace, "broken", "main")
    assert main["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert cluster.kubectl("logs", "-n", namespace, "broken", "-c", "fails") == "no good\n"


# Users and privileges


def proc_status(cluster: PodlingCluster, home: str, container: str, which: str = "1") -> dict[str, list[str]]:
    text = inside(cluster, home, "secure", f"cat /proc/{which}/status", container=container)
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in text.splitlines()}


def has(status: dict[str, list[str]], bit: int, which: str = "CapBnd") -> bool:
    return bool(int(status[which][0], 16) >> bit & 1)


@pytest.mark.parametrize("process", ["1", "self"])
def test_a_strict_container_has_the_user_and_nothing_more(
    cluster: PodlingCluster, home: str, process: str
) -> None:
    """The container's own process, and one that `kubectl exec` starts in it."""
    status = proc_status(cluster, home, "strict", process)
    assert status["Uid"] == ["1000"] * 4
    assert status["Gid"] == ["2000"] * 4
    assert set(status["Groups"]) >= {"3000", "4000"}
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    assert int(status["CapBnd"][0], 16) == 1 << CAP_NET_BIND_SERVICE


def test_a_read_only_root_filesystem_refuses_writes_but_volumes_take_them(
    cluster: PodlingCluster, home: str
) -> None:
    def run(script: str) -> str:
        return inside(cluster, home, "secure", script, container="strict")

    assert "Read-only file system" in run("touch /new 2>&1; true")
    assert run("echo x > /work/new; stat -c '%u %g' /work/new") == "1000 3000"


def test_a_plain_container_has_the_capabilities_every_runtime_gives(
    cluster: PodlingCluster, home: str
) -> None:
    status = proc_status(cluster, home, "plain")
    assert status["Uid"] == ["0"] * 4
    assert int(status["CapEff"][0], 16) == DEFAULT_CAPABILITIES
    assert status["NoNewPrivs"] == ["0"]


def test_capabilities_are_added_and_dropped_by_name(cluster: PodlingCluster, home: str) -> None:
    status = proc_status(cluster, home, "unconfined")
    expected = (DEFAULT_CAPABILITIES | 1 << CAP_SYS_TIME) & ~(1 << CAP_CHOWN)
    assert int(status["CapEff"][0], 16) == expected
    assert status["Seccomp"] == ["0"]


def test_a_privileged_container_may_all_that_its_node_may(cluster: PodlingCluster, home: str) -> None:
    status = proc_status(cluster, home, "privileged")
    node = re.search(r"^CapBnd:\s*(\w+)$", cluster.node(NODE, "cat", "/proc/self/status"), re.M)
    assert node is not None
    assert status["CapEff"] == [node[1]]
    assert has(status, CAP_SYS_ADMIN, "CapEff")
    assert status["Seccomp"] == ["0"]
    inside(
        cluster,
        home,
        "secure",
        "mkdir /m && mount -t tmpfs none /m && umount /m && ls /dev/loop-control /dev/kmsg >/dev/null",
        container="privileged",
    )


def test_run_as_non_root_refuses_an_image_that_runs_as_root(cluster: PodlingCluster, namespace: str) -> None:
    cluster.apply(
        pod("refused", busybox("main", securityContext={"runAsNonRoot": True}), namespace=namespace)
    )

    def refused() -> None:
        waiting = container_status(cluster, namespace, "refused", "main").get("state", {}).get("waiting", {})
        assert waiting.get("reason") == "CreateContainerConfigError"
        assert waiting["message"].startswith("container has runAsNonRoot and image will run as root (pod: ")

    eventually(refused)


# The node's namespaces


def test_host_namespaces_are_the_nodes(cluster: PodlingCluster, home: str) -> None:
    status = cluster.get("pod", "hostly", "-n", home)["status"]
    assert status["podIP"] == status["hostIP"]

    def run(script: str) -> str:
        return inside(cluster, home, "hostly", script)

    assert run("hostname") == NODE
    assert f"inet {status['hostIP']}/24" in run("ip addr show eth0")
    assert run("head -1 /etc/hosts") == "# Kubernetes-managed hosts file (host network)."
    namespaces = "cd /proc/self/ns; for n in ipc net pid uts; do readlink $n; done"
    assert run(namespaces) == cluster.node(NODE, "sh", "-c", namespaces).strip()
    processes = run("ps -o pid,args")
    assert re.search(r"^\s*1\s+/pause$", processes, re.M)
    assert "conmon" in processes


# Probes


def conditions(cluster: PodlingCluster, namespace: str, name: str) -> dict[str, str]:
    return {c["type"]: c["status"] for c in cluster.get("pod", name, "-n", namespace)["status"]["conditions"]}


def test_readiness_probes_of_every_kind_decide_when_a_pod_is_ready(
    cluster: PodlingCluster, namespace: str
) -> None:
    often = {"periodSeconds": 1, "failureThreshold": 1}
    server = "mkdir /www; echo ok > /www/healthy; exec httpd -f -p {} -h /www"
    cluster.apply(
        pod(
            "probed",
            busybox("exec", readinessProbe={"exec": {"command": ["test", "-f", "/tmp/on"]}, **often}),
            busybox(
                "http",
                server.format(8080),
                readinessProbe={"httpGet": {"path": "/healthy", "port": "web"}, **often},
                ports=[{"name": "web", "containerPort": 8080}],
            ),
            busybox("tcp", server.format(8081), readinessProbe={"tcpSocket": {"port": 8081}, **often}),
            namespace=namespace,
        )
    )

    def ready_containers() -> set[str]:
        statuses = cluster.get("pod", "probed", "-n", namespace)["status"].get("containerStatuses", [])
        return {s["name"] for s in statuses if s["ready"]}

    def are_ready(*names: str) -> None:
        assert ready_containers() == set(names)

    eventually(lambda: are_ready("http", "tcp"))
    wait_event(cluster, namespace, "probed", "Unhealthy", "Readiness probe failed: ")
    assert conditions(cluster, namespace, "probed")["Ready"] == "False"
    inside(cluster, namespace, "probed", "touch /tmp/on", container="exec")
    ready(cluster, namespace, "probed")
    assert ready_containers() == {"exec", "http", "tcp"}
    inside(cluster, namespace, "probed", "rm /www/healthy", container="http")
    eventually(lambda: are_ready("exec", "tcp"))
    wait_event(
        cluster,
        namespace,
        "probed",
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
    )
    assert conditions(cluster, namespace, "probed")["Ready"] == "False"
    assert container_status(cluster, namespace, "probed", "http")["restartCount"] == 0


def test_a_failed_liveness_probe_restarts_the_container(cluster: PodlingCluster, namespace: str) -> None:
    probe = {"exec": {"command": ["test", "-f", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    startup = {"exec": {"command": ["test", "-f", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 30}
    main = busybox("main", "touch /tmp/alive; sleep 3600", livenessProbe=probe, startupProbe=startup)
    cluster.apply(pod("mortal", main, namespace=namespace))
    ready(cluster, namespace, "mortal")
    inside(cluster, namespace, "mortal", "rm /tmp/alive")

    def restarted() -> None:
        status = container_status(cluster, namespace, "mortal", "main")
        assert status["restartCount"] == 1
        assert status["lastState"]["terminated"]["exitCode"] == 137

    eventually(restarted)
    wait_event(cluster, namespace, "mortal", "Unhealthy", "Liveness probe failed: ")
    wait_event(
        cluster,
        namespace,
        "mortal",
        "Killing",
        "Container main failed liveness probe, will be restarted",
    )


def test_lifecycle_hooks_run_after_start_and_before_stop(cluster: PodlingCluster, namespace: str) -> None:
    cluster.node(NODE, "mkdir", "-p", f"{HOST_DIR}-hooks")
    hooks = {
        name: {"exec": {"command": ["sh", "-c", f"echo {name} >> /out/hooks"]}}
        for name in ("postStart", "preStop")
    }
    mount = {"name": "out", "mountPath": "/out"}
    cluster.apply(
        pod(
            "hooked",
            busybox("main", lifecycle=hooks, volumeMounts=[mount]),
            namespace=namespace,
            nodeName=NODE,
            volumes=[{"name": "out", "hostPath": {"path": f"{HOST_DIR}-hooks", "type": "Directory"}}],
            terminationGracePeriodSeconds=2,
        )
    )
    ready(cluster, namespace, "hooked")
    cluster.kubectl("delete", "pod", "hooked", "-n", namespace)
    assert cluster.node(NODE, "cat", f"{HOST_DIR}-hooks/hooks").split() == ["postStart", "preStop"]


def test_the_last_words_of_a_container_are_its_termination_message(
    cluster: PodlingCluster, namespace: str
) -> None:
    written = busybox("written", "echo -n goodbye > /dev/termination-log; exit 3")
    logged = busybox("logged", "echo last line; exit 3", terminationMessagePolicy="FallbackToLogsOnError")
    cluster.apply(pod("farewell", written, logged, namespace=namespace, restartPolicy="Never"))
    cluster.kubectl("wait", "-n", namespace, "pod/farewell", "--for=jsonpath={.status.phase}=Failed")
    statuses = cluster.get("pod", "farewell", "-n", namespace)["status"]["containerStatuses"]
    messages = {s["name"]: s["state"]["terminated"].get("message") for s in statuses}
    assert messages == {"written": "goodbye", "logged": "last line\n"}, json.dumps(statuses, indent=1)


def test_a_mount_in_one_pod_reaches_another(cluster: PodlingCluster, namespace: str) -> None:
    """Bidirectional out of a privileged pod, HostToContainer into the other, over the node between them."""
    volumes = [{"name": "v", "hostPath": {"path": f"/run/{namespace}", "type": "DirectoryOrCreate"}}]
    script = "mkdir -p /v/sub; mount -t tmpfs mine /v/sub; echo hello > /v/sub/file; exec sleep 1000"
    mounts = [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]
    privileged = {"privileged": True}
    mounter = busybox("main", script, securityContext=privileged, volumeMounts=mounts)
    mounts = [{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}]
    reader = busybox("main", volumeMounts=mounts)
    cluster.apply(pod("reader", reader, namespace=namespace, volumes=volumes, nodeName=NODE))
    cluster.kubectl("wait", "-n", namespace, "pod/reader", "--for=condition=Ready", "--timeout=30s")
    cluster.apply(pod("mounter", mounter, namespace=namespace, volumes=volumes, nodeName=NODE))

    def shown() -> None:
        said = cluster.kubectl("exec", "-n", namespace, "reader", "--", "cat", "/v/sub/file", check=False)
        assert said == "hello\n"

    try:
        eventually(shown)
    finally:
        cluster.node(NODE, "umount", f"/run/{namespace}/sub", check=False)
