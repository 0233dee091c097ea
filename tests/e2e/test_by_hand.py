"""Containers by hand, as with docker: experiments E2, E5, E10 and E23, and what docker's users count on.

No cluster but where a test takes one: the commands run in the test's own network namespace, with state below
a folder of the test's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from e2e.hand import FOREVER, ByHand
from e2e.shorthand import inside, ready
from e2e.terminal import Terminal
from podling.linux.cgroups import Cgroups
from podling.pause.build import pause_path
from podling.testing.cluster import PodlingCluster, busybox, eventually, pod

PAUSE_SYSCALL = {"x86_64": "34", "aarch64": "73"}


def test_two_containers_of_a_network_reach_each_other(hand: ByHand) -> None:
    """E2, first half."""
    hand("network", "create", "mynetwork")
    hand("run", "-d", "--name", "container1", "--network=mynetwork", *FOREVER)
    hand("run", "-d", "--name", "container2", "--network=mynetwork", *FOREVER)
    first, second = hand.ip("container1"), hand.ip("container2")
    assert first != second
    assert hand.namespace("container1", "net") != hand.namespace("container2", "net")
    assert " 0% packet loss" in hand("exec", "container1", "ping", "-c1", "-W5", second)
    assert " 0% packet loss" in hand("exec", "container2", "ping", "-c1", "-W5", first)
    assert " 0% packet loss" in hand("exec", "container1", "ping", "-c1", "-W5", "container2")
    (network,) = json.loads(hand("network", "inspect", "mynetwork"))
    assert {entry["Name"] for entry in network["Containers"].values()} == {"container1", "container2"}
    assert "has active endpoints" in hand.refused("network", "rm", "mynetwork")
    assert "network with name mynetwork already exists" in hand.refused("network", "create", "mynetwork")
    hand("kill", "container2")
    assert "container2" not in hand("exec", "container1", "cat", "/etc/hosts")


def test_container_mode_shares_one_network_namespace(hand: ByHand) -> None:
    """E2, second half."""
    hand("run", "-d", "--name", "container1", *FOREVER)
    hand("run", "-d", "--name", "container2", "--network=container:container1", *FOREVER)
    hand("run", "-d", "--name", "container3", "--network=container:container1", *FOREVER)
    inodes = {hand.namespace(f"container{n}", "net") for n in (1, 2, 3)}
    assert len(inodes) == 1
    assert os.stat("/proc/self/ns/net").st_ino not in inodes
    first = hand.inspect("container1")
    assert hand.inspect("container2")["HostConfig"]["NetworkMode"] == f"container:{first['Id']}"
    assert hand.inspect("container2")["Config"]["Hostname"] == first["Config"]["Hostname"]


def test_a_stopped_container_takes_eth0_with_it(hand: ByHand) -> None:
    """E23: why pods have a pause container."""
    hand("run", "-d", "--name", "busybox1", *FOREVER)
    hand("run", "-d", "--name", "busybox2", "--net=container:busybox1", *FOREVER)
    before = [hand("exec", name, "ip", "addr").replace(" tentative", "") for name in ("busybox1", "busybox2")]
    assert before[0] == before[1]
    assert hand.interfaces("busybox2") == ["lo", "eth0"]
    ping = ["ping", "-c2", "-i0.2", "-W5", hand.ip("busybox1")]
    seen = subprocess.run(ping, capture_output=True, text=True, check=True).stdout
    assert " 0% packet loss" in seen
    hand("stop", "-t1", "busybox1")
    assert hand.inspect("busybox1")["State"]["Status"] == "exited"
    assert hand.inspect("busybox2")["State"]["Running"] is True
    assert hand.interfaces("busybox2") == ["lo"]
    assert subprocess.run(ping, capture_output=True, check=False).returncode != 0
    refused = hand.refused("run", "-d", "--net=container:busybox1", *FOREVER, code=125)
    assert "cannot join network of a non running container" in refused


def test_the_pause_program(hand: ByHand) -> None:
    """E5"""
    assert pause_path().stat().st_size <= 742 * 1024
    hand("run", "-d", "--name", "pause", "-v", f"{pause_path()}:/pause:ro", "busybox", "/pause")
    pid = hand.pid("pause")
    assert Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "1"
    number = PAUSE_SYSCALL.get(os.uname().machine)

    def asleep() -> None:
        assert number is None or Path(f"/proc/{pid}/syscall").read_text().split()[0] == number

    eventually(asleep)
    # Orphans: the shell ends before its child, which then is pause's.
    hand("exec", "pause", "sh", "-c", "(sleep 2; exit 3) >/dev/null 2>&1 & exit 0")
    children = Path(f"/proc/{pid}/task/{pid}/children")
    assert children.read_text().split(), "the orphan is pause's child"

    def reaped() -> None:
        assert children.read_text() == ""

    eventually(reaped)
    assert cpu_ticks(pid) == 0
    (row,) = [line for line in hand("stats", "--no-stream").splitlines() if " pause " in line]
    assert "0.00%" in row
    for name in ("SIGTERM", "SIGINT"):
        hand("kill", "-s", name, "pause")

        def ended() -> None:
            state = hand.inspect("pause")["State"]
            assert (state["Status"], state["ExitCode"]) == ("exited", 0)

        eventually(ended)
        hand("start", "pause")


def cpu_ticks(pid: int) -> int:
    """Hundredths of a second in user and system mode, as `top` counts (`man 5 proc`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_container_joins_pid_and_ipc_of_another(hand: ByHand) -> None:
    """A pod made by hand: pause first, and its namespaces for the others."""
    hand("run", "-d", "--name", "pause", "-v", f"{pause_path()}:/pause:ro", "busybox", "/pause")
    shared = [f"--{what}=container:pause" for what in ("net", "ipc", "pid")]
    hand("run", "-d", "--name", "one", *shared, *FOREVER)
    hand("run", "-d", "--name", "two", *shared, *FOREVER)
    for kind in ("net", "ipc", "pid"):
        assert len({hand.namespace(name, kind) for name in ("pause", "one", "two")}) == 1
    listed = hand("exec", "two", "ps")
    assert re.search(r"^ *1 .*/pause", listed, re.MULTILINE)
    assert listed.count("sleep 1000") == 2
    hand("exec", "one", "sh", "-c", "echo kept > /dev/shm/note")
    assert hand("exec", "two", "cat", "/dev/shm/note") == "kept"


def test_pause_reaps_a_zombie_of_a_pod(cluster: PodlingCluster, namespace: str) -> None:
    """E10"""
    cluster.apply(pod("shared", busybox(), namespace=namespace, shareProcessNamespace=True))
    ready(cluster, namespace, "shared")
    # The shell becomes a sleep that never waits for its child: a zombie as long as the parent lives.
    inside(cluster, namespace, "shared", "(sleep 0.2 & exec sleep 3) >/dev/null 2>&1 &")

    def states() -> list[str]:
        script = "grep -h '^State' /proc/[0-9]*/status 2>/dev/null"
        return re.findall(r"State:\s+(\w)", inside(cluster, namespace, "shared", script))

    def zombie() -> None:
        assert "Z" in states()

    def none_left() -> None:
        assert "Z" not in states()

    eventually(zombie, timeout_s=3)
    eventually(none_left)


def test_run_in_the_foreground(hand: ByHand) -> None:
    assert hand("run", "--rm", "busybox", "echo", "hello") == "hello"
    done = hand.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert hand("run", "-i", "--rm", "busybox", "sort", input="b\na\n") == "a\nb"
    big = "x" * 70_000 + "\n"
    assert hand("run", "-i", "--rm", "busybox", "cat", input=big * 20) == (big * 20).removesuffix("\n")
    assert hand("ps", "-aq") == ""


def test_run_takes_dockers_options(hand: ByHand, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "note").write_text("from the host")
    script = "echo $A $(hostname) $(pwd) $(id -u) $$; cat /data/note; touch /data/x || touch /x"
    options = ["-e", "A=b", "-h", "myhost", "-w", "/tmp", "-u", "65534", "-v", f"{tmp_path}:/data:ro"]
    done = hand.run("run", "--rm", "--read-only", *options, "busybox", "sh", "-c", script)
    assert done.stdout == "b myhost /tmp 65534 1\nfrom the host"
    assert done.stderr.count("Read-only file system") == 2
    limited = hand("run", "--rm", "-m", "32m", "busybox", "sh", "-c", "echo $((1+1))")
    assert limited == "2"
    assert hand("run", "--rm", "--network=none", "busybox", "ls", "/sys/class/net") == "lo"
    host = hand("run", "--rm", "--network=host", "busybox", "readlink", "/proc/self/ns/net")
    assert host == os.readlink("/proc/self/ns/net")
    assert "uid=0" in hand("run", "--rm", "--entrypoint", "id", "busybox")


def test_run_takes_what_only_docker_has_words_for(hand: ByHand, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# no\nFROM_FILE=1\nBOTH=file\n")
    options = ["--tmpfs", "/x:size=1m", "--ulimit", "nofile=100:200", "--add-host", "a:192.0.2.3"]
    options += ["--dns", "192.0.2.53", "--dns-search", "example.test", "--mac-address", "02:11:22:33:44:55"]
    options += ["--sysctl", "net.core.somaxconn=77", "--shm-size", "1m", "--device", "/dev/null:/dev/mine:rw"]
    options += [
        "--security-opt",
        "no-new-privileges",
        "--env-file",
        str(tmp_path / "env"),
        "-e",
        "BOTH=option",
    ]
    options += ["--stop-signal", "SIGUSR1", "--stop-timeout", "1", "--pids-limit", "64", "--label", "a=b"]
    hand("run", "-d", "--name", "all", *options, *FOREVER)

    def inside(script: str) -> str:
        return hand("exec", "all", "sh", "-c", script)

    mounted = inside("grep -E ' /x | /dev/shm ' /proc/mounts")
    assert mounted.count("size=1024k") == 2
    assert inside("cat /proc/1/limits | grep 'open files' | tr -s ' ' | cut -d' ' -f4,5") == "100 200"
    assert "192.0.2.3\ta" in inside("cat /etc/hosts")
    assert inside("cat /etc/resolv.conf") == "search example.test\nnameserver 192.0.2.53"
    assert inside("cat /sys/class/net/eth0/address /proc/sys/net/core/somaxconn") == "02:11:22:33:44:55\n77"
    assert inside("stat -c %t:%T /dev/mine; echo ok > /dev/mine") == "1:3"
    assert inside("grep NoNewPrivs /proc/1/status").split()[1] == "1"
    assert inside("echo $FROM_FILE $BOTH") == "1 option"
    pids = next(Path("/sys/fs/cgroup").rglob(f"podling-byhand/{hand.inspect('all')['Id']}/pids.max"))
    assert pids.read_text().strip() == "64"
    assert hand.inspect("all")["Config"]["StopSignal"] == signal.SIGUSR1
    wanted = hand.ip("all")
    hand("rm", "-f", "all")
    free = wanted.rpartition(".")[0] + ".77"
    assert f"inet {free}/" in hand("run", "--rm", "--ip", free, "busybox", "ip", "addr", "show", "eth0")
    for option, value, words in (
        ("--ulimit", "nofiles=3", "invalid ulimit type: nofiles"),
        ("--sysctl", "kernel.panic=1", "sysctl 'kernel.panic=1' is not allowed"),
        ("--device", "/dev/nothing", "error gathering device information"),
        ("--add-host", "a:b", "invalid IP address in add-host"),
        ("--memory-swap", "1g", "You should always set the Memory limit"),
        ("--env-file", "/nowhere", "open /nowhere: no such file or directory"),
        ("-v", "data:/data", "named volumes are not there"),
        ("--stop-signal", "SIGNONE", "invalid signal: SIGNONE"),
    ):
        assert words in hand.refused("run", "--rm", option, value, *FOREVER, code=125)


def test_an_interactive_terminal(hand: ByHand) -> None:
    argv = hand.argv("run", "-it", "--rm", "--name", "tty", "busybox", "sh")
    with Terminal(argv, hand.env, rows=30, columns=90) as terminal:
        terminal.expect("# ")
        terminal.type("stty size\n")
        terminal.expect("30 90")
        terminal.expect("# ")
        with Terminal(hand.argv("exec", "-it", "tty", "sh"), hand.env) as second:
            second.expect("# ")
            second.type("echo $$ | sed s/^/pid=/; exit 7\n")
            second.expect("pid=")
            assert second.wait() == 7
        terminal.type("\x10\x11")  # ^P ^Q: the container goes on without us
        assert terminal.wait() == 0
    with Terminal(hand.argv("attach", "tty"), hand.env) as again:
        again.type("\n")
        again.expect("# ")
        again.type("exit 4\n")
        assert again.wait() == 4


def test_ps_inspect_logs_and_top_show_it_under_its_own_name(hand: ByHand) -> None:
    full = hand("run", "-d", "--name", "web", "busybox", "sh", "-c", "echo one; echo two >&2; sleep 1000")
    assert re.fullmatch(r"[0-9a-f]{64}", full)
    (row,) = [line for line in hand("ps").splitlines() if full[:12] in line]
    assert re.match(rf'{full[:12]} +busybox +"sh -c', row)
    assert row.endswith(" web")

    def logged() -> None:
        done = hand.run("logs", "web")
        assert (done.stdout, done.stderr) == ("one\n", "two\n")

    eventually(logged)
    described = hand.inspect("web")
    assert described["Name"] == "/web"
    assert described["HostConfig"]["NetworkMode"] == "podling"
    assert described["State"]["Pid"] in [
        int(line.split()[1]) for line in hand("top", full[:6]).splitlines()[1:]
    ]
    hand("kill", "web")
    assert "Exited (137)" in hand("ps", "-a")


def test_exec_takes_dockers_options(hand: ByHand, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=1\n")
    hand("run", "-d", "--name", "main", "-e", "A=container", *FOREVER)
    options = ["-e", "A=exec", "--env-file", str(tmp_path / "env"), "-w", "/tmp", "-u", "65534:7"]
    said = hand("exec", *options, "main", "sh", "-c", "echo $A $FROM_FILE $(pwd) $(id -u):$(id -g)")
    assert said == "exec 1 /tmp 65534:7"
    caps = ("main", "grep", "CapEff", "/proc/self/status")
    given = ((), ("--privileged",), ("-u", "1"))
    own, root, other = (int(hand("exec", *options, *caps).split()[1], 16) for options in given)
    assert root & ~own, "more than the container has"
    assert other == 0
    hand("exec", "-d", "main", "sh", "-c", "echo out; sleep 0.3; echo done > /tmp/detached")

    def written() -> None:
        assert hand.run("exec", "main", "cat", "/tmp/detached").stdout == "done\n"

    eventually(written)
    assert "executable file not found" in hand.refused("exec", "-d", "main", "nope", code=127)
    assert "unable to find user nobody9" in hand.refused("exec", "-u", "nobody9", "main", "true", code=126)
    assert "Cwd must be an absolute path" in hand.refused("exec", "-w", "x", "main", "true", code=126)


def test_lists_can_be_filtered_and_formatted(hand: ByHand) -> None:
    hand("network", "create", "net1")
    hand("network", "create", "net2")
    hand("run", "-d", "--name", "web-1", "-l", "tier=front", "--network", "net1", *FOREVER)
    hand("run", "-d", "--name", "web-2", "-l", "tier=front", "-l", "old", *FOREVER)
    hand.run("run", "--name", "job", "busybox", "sh", "-c", "exit 3")

    def names(*args: str) -> list[str]:
        return hand("ps", "--format", "{{.Names}}", *args).split()

    assert names() == ["web-2", "web-1"]
    assert names("-n", "1") == ["job"]
    assert names("-f", "name=web", "-f", "label=old") == ["web-2"]
    assert names("-f", "label=tier=front", "-f", "network=net1") == ["web-1"]
    assert names("-f", "status=exited") == names("-f", "exited=3") == ["job"]
    assert names("-a", "-f", "ancestor=busybox", "-f", "before=web-2") == ["web-1"]
    assert "invalid filter 'colour'" in hand.refused("ps", "-f", "colour=red")
    form = r'table {{.Names}}\t{{.Label "tier"}}'
    heading, row = hand("ps", "-f", "name=web-1", "--format", form).splitlines()
    assert (heading.split(), row.split()) == (["NAMES", "tier"], ["web-1", "front"])
    assert json.loads(hand("ps", "-l", "--format", "json"))["State"] == "exited"
    form = "{{.State.Pid}} {{.HostConfig.NetworkMode}} {{.NetworkSettings.IPAddress}}"
    assert hand("inspect", "-f", form, "web-1") == f"{hand.pid('web-1')} net1 {hand.ip('web-1')}"
    assert hand("inspect", "-f", "{{.NetworkSettings.Networks.net1.IPAddress}}", "web-1") == hand.ip("web-1")
    assert hand("inspect", "-f", "{{json .Config.Labels}}", "web-2") == '{"tier":"front","old":""}'
    assert 'no entry for key "Nope"' in hand.refused("inspect", "-f", "{{.Nope}}", "web-1")
    assert hand("network", "inspect", "-f", "{{.Driver}}", "net1") == "bridge"
    assert hand("network", "prune", "-f") == "Deleted Networks:\nnet2"


def test_logs_by_time(hand: ByHand) -> None:
    hand("run", "-d", "--name", "log", "busybox", "sh", "-c", "echo one; sleep 2; echo two; exec sleep 1000")

    def both() -> None:
        assert hand("logs", "log") == "one\ntwo"

    eventually(both)
    stamps = [line.split()[0] for line in hand("logs", "-t", "log").splitlines()]
    between = stamps[1][:19] + "Z"  # the second in which it began: after the first line
    assert hand("logs", "--since", between, "log") == "two"
    assert hand("logs", "--until", between, "log") == "one"
    assert hand("logs", "--since", "1h30m", "log") == "one\ntwo"
    assert hand("logs", "--tail", "1", "log") == "two"
    refused = hand.refused("logs", "--since", "later", "log", code=2)
    assert "failed to parse value as time or duration" in refused
    hand("run", "--name", "small", "--log-opt", "max-size=4k", "busybox", "sh", "-c", "yes | head -n 20000")
    assert Path(hand.inspect("small")["LogPath"]).stat().st_size < 64 << 10


def test_errors_are_in_dockers_words(hand: ByHand) -> None:
    hand("run", "-d", "--name", "taken", *FOREVER)
    for command in ("stop", "kill", "rm", "logs", "top", "attach", "start"):
        assert "No such container: nobody" in hand.refused(command, "nobody")
    assert "No such container: nobody" in hand.refused("exec", "nobody", "true")
    assert "No such object: nobody" in hand.refused("inspect", "nobody")
    conflict = hand.refused("run", "-d", "--name", "taken", *FOREVER, code=125)
    assert 'Conflict. The container name "/taken" is already in use by container "' in conflict
    assert "You cannot remove a running container" in hand.refused("rm", "taken")
    assert 'exec: "nope": executable file not found in $PATH' in hand.refused(
        "run", "--rm", "busybox", "nope", code=127
    )
    assert 'exec: "/etc/passwd": permission denied' in hand.refused(
        "run", "--rm", "busybox", "/etc/passwd", code=126
    )
    assert "executable file not found" in hand.refused("exec", "taken", "nope", code=127)
    assert "network nowhere not found" in hand.refused("run", "--rm", "--network=nowhere", *FOREVER, code=125)
    assert "--restart and --rm" in hand.refused("run", "--rm", "--restart=always", *FOREVER, code=125)
    assert "No such option '--nope'" in hand.refused("run", "--nope", *FOREVER, code=125)
    assert "No such option '--nope'" in hand.refused("exec", "--nope", "taken", "true", code=125)
    assert "unknown policy 'maybe'" in hand.refused("run", "--restart=maybe", *FOREVER, code=125)
    assert "is not running" in hand.refused("exec", hand_exited(hand), "true")
    (default,) = json.loads(hand("network", "inspect", "podling"))
    taken = default["IPAM"]["Config"][0]["Subnet"]
    overlap = hand.refused("network", "create", "--subnet", taken, "other")
    assert "Pool overlaps with other one on this address space" in overlap


def hand_exited(hand: ByHand) -> str:
    hand.run("run", "--name", "over", "busybox", "true")
    return "over"


def test_published_ports(hand: ByHand) -> None:
    serve = ["sh", "-c", "while :; do echo hello | nc -l -p 80; done"]
    hand("run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", *serve)

    def answers() -> None:
        with closing(socket.create_connection(("127.0.0.1", 8080), timeout=5)) as connection:
            assert connection.recv(100) == b"hello\n"

    def eventually_answers() -> None:
        try:
            answers()
        except OSError as err:
            raise AssertionError(str(err)) from err

    eventually(eventually_answers)
    assert "127.0.0.1:8080->80/tcp" in hand("ps")
    taken = hand.refused("run", "-d", "-p", "8080:81", *FOREVER, code=125)
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in taken
    with closing(socket.create_server(("0.0.0.0", 8081))):
        busy = hand.refused("run", "-d", "-p", "8081:81", *FOREVER, code=125)
        assert "address already in use" in busy


def test_restart_policies(hand: ByHand) -> None:
    hand("run", "-d", "--name", "twice", "--restart=on-failure:2", "busybox", "sh", "-c", "echo x; exit 4")
    hand("run", "-d", "--name", "always", "--restart=always", *FOREVER)

    def given_up() -> None:
        described = hand.inspect("twice")
        assert (described["RestartCount"], described["State"]["Status"]) == (2, "exited")

    eventually(given_up)
    assert hand("logs", "twice") == "x\nx\nx"
    before = hand.pid("always")
    address = hand.ip("always")
    os.kill(before, signal.SIGKILL)

    def back() -> None:
        described = hand.inspect("always")
        assert described["State"]["Running"] is True
        assert described["State"]["Pid"] != before

    eventually(back)
    assert hand.interfaces("always") == ["lo", "eth0"], address
    hand("stop", "-t0", "always")
    time.sleep(0.5)  # longer than the first back-off
    assert hand.inspect("always")["State"]["Status"] == "exited"


def test_a_killed_client_leaves_a_container_that_is_known(hand: ByHand) -> None:
    """`podling run --rm` dies of SIGKILL: the container goes on, and is removed when it ends."""
    client = subprocess.Popen(
        hand.argv("run", "--rm", "--name", "lonely", *FOREVER), env=hand.env, stdout=subprocess.DEVNULL
    )

    def up() -> None:
        assert "lonely" in hand("ps")

    eventually(up)
    client.kill()
    client.wait()
    assert hand.inspect("lonely")["State"]["Running"] is True
    os.kill(hand.pid("lonely"), signal.SIGKILL)

    def gone() -> None:
        assert "lonely" not in hand("ps", "-a")

    eventually(gone)


def test_commands_may_be_killed_at_any_moment(hand: ByHand) -> None:
    """What they have half made is swept by the next command, or is a container that `rm` removes."""

    def killed_after(wait_s: float, *args: str) -> None:
        devnull = subprocess.DEVNULL
        with subprocess.Popen(hand.argv(*args), env=hand.env, stdout=devnull, stderr=devnull) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=wait_s)
            process.kill()

    waits = [0.25 + 0.08 * n for n in range(8)]
    for number, wait_s in enumerate(waits):
        killed_after(wait_s, "run", "-d", "--name", f"made{number}", *FOREVER)
    for number, wait_s in enumerate(waits):
        hand.run("start", f"made{number}")
        killed_after(wait_s, "rm", "-f", f"made{number}")
    assert hand("run", "--rm", "busybox", "echo", "sweeps") == "sweeps"
    if names := hand("ps", "-aq").split():
        hand("rm", "-f", *names)


def test_the_memory_limit_is_the_kernels(hand: ByHand) -> None:
    full = hand("run", "-d", "--name", "small", "-m", "32m", *FOREVER)
    assert Cgroups().stats(f"/podling-byhand/{full}").memory_limit_bytes == 32 << 20
    assert "/ 32MiB" in hand("stats", "--no-stream", "small")


def test_on_a_node(cluster: PodlingCluster) -> None:
    """Beside the node's agent, which neither collects the containers nor is disturbed by them."""
    node = "kube-node-1"
    cluster.node(node, "podling", "run", "-d", "--name", "mine", *FOREVER)
    try:
        assert re.search(r" mine$", cluster.node(node, "podling", "ps"), re.MULTILINE)
        assert "inet 10.88." in cluster.node(node, "podling", "exec", "mine", "ip", "addr")
        assert cluster.node(node, "podling", "run", "--rm", "busybox", "hostname").strip()
        manifest = json.dumps(pod("alone", busybox(command="hostname; exec sleep 1000"))).encode()
        cluster.podling("node", "exec", node, "--", "podling", "play", "-", input=manifest)
        assert " alone " in cluster.node(node, "podling", "pod", "ls")
        assert "alone" not in cluster.kubectl("get", "pods", "-A")
        cluster.podling("node", "exec", node, "--", "podling", "play", "--down", "-", input=manifest)
    finally:
        cluster.node(node, "podling", "rm", "-f", "mine")
        cluster.node(node, "podling", "network", "rm", "podling")
    assert " mine" not in cluster.node(node, "podling", "ps", "-a")


def test_an_image_in_use_stays(hand: ByHand, tmp_path: Path) -> None:
    """No daemon holds it: conmon does, and the container gets nothing of that."""
    busybox_program = shutil.which("busybox")
    if busybox_program is None:
        pytest.skip("busybox (busybox-static) is not installed")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        for applet in ("sleep", "ls"):
            tar.add(busybox_program, arcname=f"bin/{applet}")
    hand.env["PODLING_IMAGE_DIR"] = str(tmp_path / "images")
    hand("image", "import", str(tmp_path / "root.tar"), "mini")
    hand("run", "-d", "--name", "user", "mini", "sleep", "1000")
    assert hand("exec", "user", "ls", "/proc/1/fd").split() == ["0", "1", "2"]
    assert "image is being used by a container" in hand.refused("image", "rm", "-f", "mini")
    hand("rm", "-f", "user")
    assert "Deleted" in hand("image", "rm", "mini")
