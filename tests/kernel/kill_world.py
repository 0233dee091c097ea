"""What must be true of the machine after a runtime was killed and has started again.

`World` remembers what the runtime said before it died: an answer that was given is a promise, a request
without an answer leaves things open. `unexplained` looks for everything of ours on the machine, whoever
made it, and gives back what no listed sandbox or container accounts for.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel.runtime_local import PARENT
from podling.linux.cgroups import Cgroups
from podling.linux.mounts import read_mountinfo
from podling.runtime.config import RuntimeConfig

CREATED, RUNNING, EXITED = "created", "running", "exited"


@dataclass
class Pod:
    ready: bool = False
    """It was answered that it runs, and nobody has asked to end it."""
    listed: bool = False
    """It must be listed, in whatever state."""


@dataclass
class Container:
    pod: str
    states: set[str] = field(default_factory=lambda: {CREATED, RUNNING, EXITED})
    """Those it may be in."""
    listed: bool = False
    codes: set[int] = field(default_factory=set)
    """Exit codes it may have; empty: any."""
    pid: int = 0
    """Of its running process; 0: not known."""
    ends: int | None = None
    """The exit code with which it ends by itself, if it does."""


@dataclass
class World:
    pods: dict[str, Pod] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)

    def heard(self, message: list[Any]) -> None:
        """`[verb, "begin" or "end", key, answer]`: what the runtime was asked, and that it has answered."""
        verb, when, key, answer = message
        getattr(self, f"_{when}_{verb}")(key, answer)

    # pods

    def _begin_run_pod(self, pod: str, _: Any) -> None:
        self.pods[pod] = Pod()

    def _end_run_pod(self, pod: str, _: Any) -> None:
        self.pods[pod] = Pod(ready=True, listed=True)

    def _begin_stop_pod(self, pod: str, _: Any) -> None:
        self.pods[pod].ready = False
        for container in self._of(pod):
            self._may_end(container)

    def _end_stop_pod(self, pod: str, _: Any) -> None:
        for container in self._of(pod):
            container.states.discard(RUNNING)

    def _begin_remove_pod(self, pod: str, _: Any) -> None:
        self._begin_stop_pod(pod, _)
        self.pods[pod].listed = False
        for container in self._of(pod):
            self._begin_remove("", _, container)

    def _end_remove_pod(self, pod: str, _: Any) -> None:
        del self.pods[pod]
        self.containers = {key: c for key, c in self.containers.items() if c.pod != pod}

    def _of(self, pod: str) -> list[Container]:
        return [container for container in self.containers.values() if container.pod == pod]

    # containers

    def _begin_create(self, key: str, _: Any) -> None:
        self.containers[key] = Container(pod=key.partition("/")[0], states={CREATED})

    def _end_create(self, key: str, _: Any) -> None:
        self.containers[key].listed = True

    def _begin_start(self, key: str, ends: int | None) -> None:
        container = self.containers[key]
        container.ends = ends
        container.states = {CREATED, RUNNING, EXITED}

    def _end_start(self, key: str, pid: int) -> None:
        self.containers[key].pid = pid
        self._runs(self.containers[key])

    def _runs(self, container: Container) -> None:
        """And one that ends by itself may do so at any time."""
        container.states = {RUNNING} if container.ends is None else {RUNNING, EXITED}
        container.codes = set() if container.ends is None else {container.ends}

    def _begin_exec(self, key: str, _: Any) -> None:
        """Changes nothing that must be remembered, as reopening a log."""

    _end_exec = _begin_reopen = _end_reopen = _begin_exec

    def _begin_stop(self, key: str, _: Any) -> None:
        self._may_end(self.containers[key])

    def _end_stop(self, key: str, _: Any) -> None:
        self.containers[key].states = {EXITED}

    def _begin_remove(self, key: str, _: Any, container: Container | None = None) -> None:
        container = container or self.containers[key]
        container.listed = False
        self._may_end(container)
        container.states.add(EXITED)  # a created one that has lost its files

    def _end_remove(self, key: str, _: Any) -> None:
        del self.containers[key]

    def _may_end(self, container: Container) -> None:
        if RUNNING in container.states:
            container.states.add(EXITED)
            if container.codes or container.states == {RUNNING, EXITED}:
                container.codes |= {137, 143}

    def killed(self, key: str) -> None:
        """Its process was killed from outside while no runtime was there."""
        container = self.containers[key]
        container.states = {EXITED}
        container.codes |= {137}

    # afterwards

    def check(self, pods: dict[str, bool], containers: dict[str, tuple[str, int, int]]) -> list[str]:
        """`pods`: listed ones and whether they are ready; `containers`: state, exit code, PID.

        What is not as promised; then what is listed becomes what is known.
        """
        wrong = [f"pod {pod} is unknown to us" for pod in pods if pod not in self.pods]
        wrong += [f"container {key} is unknown to us" for key in containers if key not in self.containers]
        for pod, expected in self.pods.items():
            if expected.listed and pod not in pods:
                wrong.append(f"pod {pod} is lost")
            if expected.ready and not pods.get(pod):
                wrong.append(f"pod {pod} is not ready")
        for key, container in self.containers.items():
            wrong += self._wrong_with(key, container, containers.get(key))
        self._adopt(pods, containers)
        return wrong

    def _wrong_with(self, key: str, expected: Container, found: tuple[str, int, int] | None) -> Iterator[str]:
        if found is None:
            if expected.listed:
                yield f"container {key} is lost"
            return
        state, code, pid = found
        if state not in expected.states:
            yield f"container {key} is {state} ({code}), expected {sorted(expected.states)}"
        if state == EXITED and expected.codes and code not in expected.codes:
            yield f"container {key} ended with {code}, expected {sorted(expected.codes)}"
        if state == RUNNING and expected.pid and pid != expected.pid:
            yield f"container {key} has process {pid}, expected {expected.pid}"
        if state == RUNNING and not os.path.exists(f"/proc/{pid}"):
            yield f"container {key} is running without its process {pid}"

    def _adopt(self, pods: dict[str, bool], containers: dict[str, tuple[str, int, int]]) -> None:
        self.pods = {pod: Pod(ready=ready, listed=True) for pod, ready in pods.items()}
        kept = {}
        for key, (state, code, pid) in containers.items():
            old = self.containers.get(key) or Container(pod=key.partition("/")[0])
            old.listed, old.pid = True, pid
            if state == RUNNING:
                self._runs(old)
            else:
                old.states, old.codes = {state}, {code} if state == EXITED else set()
            kept[key] = old
        self.containers = kept


def unexplained(config: RuntimeConfig, known: set[str], netns: set[str]) -> list[str]:
    """What is on the machine and belongs to none of the `known` ids; `netns` are the known ones' files."""
    root, run = config.root_dir, config.run_dir
    folders = (root / "containers", run / "sandboxes", run / "containers", run / "crun", run / "exits")
    found = [str(path) for folder in folders for path in folder.iterdir() if path.name not in known]
    found += [str(path) for path in (root / "sandboxes").iterdir() if path.name[:-5] not in known]
    found += [str(path) for path in config.netns_dir.iterdir() if str(path) not in netns]
    found += [str(path) for path in run.glob("tty-*")]
    found += [str(path) for path in run.glob("containers/*/exec-*")]
    found += [str(path) for path in run.rglob(".*")] + [str(path) for path in root.glob("sandboxes/.*")]
    found += [str(path) for path in root.glob("containers/*/.*")]
    found += [f"mount {m.target}" for m in read_mountinfo() if _is_stray(m.target, config, known | netns)]
    found += _strays_of_network(config, known)
    found += [f"cgroup {name}" for name in _cgroups() if os.path.basename(name) not in known]
    found += [f"process {pid}: {text}" for pid, text in _processes(config, known)]
    return found


def _is_stray(target: str, config: RuntimeConfig, known: set[str]) -> bool:
    return target.startswith(str(config.root_dir.parent)) and not any(name in target for name in known)


def _strays_of_network(config: RuntimeConfig, known: set[str]) -> list[str]:
    """Cached results, addresses and veth pairs."""
    found, veths = [], set()
    for path in config.cni_cache_dir.iterdir():
        try:
            entry = json.loads(path.read_bytes())
        except ValueError:
            entry = {}
        if entry.get("containerId") not in known or path.name.startswith("."):
            found.append(str(path))
        veths |= {i["name"] for i in entry.get("result", {}).get("interfaces", ())}
    for path in (config.root_dir.parent / "ipam").glob("*/*"):
        owner = path.read_bytes().decode().partition("\r\n")[0]
        # An empty one is nobody's: the next ADD takes it.
        if path.name[0].isdigit() and owner and owner not in known:
            found.append(f"address {path.name} of {owner[:12]}")
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    names = {line.split(": ")[1].partition("@")[0] for line in links.splitlines() if "veth" in line}
    return found + [f"link {name}" for name in names - veths]


def _cgroups() -> list[str]:
    """Those of sandboxes and containers: below a pod's."""
    cgroups = Cgroups()
    pods = [f"{PARENT}/{name}" for name in cgroups.children(PARENT)]
    return [f"{pod}/{name}" for pod in pods for name in cgroups.children(pod)]


def _processes(config: RuntimeConfig, known: set[str]) -> Iterator[tuple[int, str]]:
    """In our cgroups, or a helper of ours, and of nothing that is known."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            cgroup = (entry / "cgroup").read_text()
        except OSError:
            continue
        if not line:
            continue  # a zombie, or the kernel's
        helper = f"root={config.run_dir}/crun" in line
        inside = f"{PARENT}/" in cgroup
        if (helper or inside) and not any(name in (line if helper else cgroup) for name in known):
            yield int(entry.name), line
