"""`python -m kernel.kill_anywhere BASE IMAGES SEED KILLS`: lives of a runtime, cut short one after the other.

Each life is a fork of this process (nothing is imported again): the runtime starts on what the last one left,
everything is compared with what was promised (`kill_world`), then it works until it is killed:
- steps: one operation, dead before its K-th call to the kernel, for each K up to its end (`kill_steps`);
- pods: several pods in flight, dead after a random time;
- helpers: the runtime lives, and conmon, crun and pause are killed under it, or containers while it is away.
At the end all is removed, and nothing may be left. Prints what was wrong, and exits with 1.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import sys
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kernel.kill_steps import Countdown
from kernel.kill_world import CREATED, EXITED, RUNNING, World, unexplained
from kernel.runtime_local import Local, make_config
from podling.linux.pidfd import command_line
from podling.runtime.config import RuntimeConfig
from podling.runtime.core import Container
from podling.runtime.cri import messages as cri
from podling.runtime.cri.errors import CRIError
from podling.runtime.images.archive import import_rootfs
from podling.runtime.images.oci import RunConfig
from podling.runtime.server import Runtime

T = TypeVar("T")

PR_SET_CHILD_SUBREAPER = 36
FOR_EVER = ("sleep", "100000")
CODE = 7
LIFE_S = 60.0
"""Far above what any life takes; one that hangs is a failure."""


class Life:
    """One runtime from its start to its death, in a process of its own."""

    def __init__(self, config: RuntimeConfig, world: World, number: int, pipe: int) -> None:
        self.countdown = Countdown()
        self.countdown.install()
        self.number = number
        self.world = world
        self._pipe = pipe
        self._config = config
        self._pods = self._names = 0

    async def begin(self) -> None:
        self.runtime = Runtime(self._config)
        await self.runtime.start()
        self.local = Local(self._config, self.runtime, self._config.root_dir.parent / "logs")
        self.core = self.runtime.core
        self.ids: dict[str, str] = {}
        """Ids by the names that `World` uses: a pod's uid, `UID/NAME` of a container."""
        for sandbox in self.core.sandboxes.values():
            self.ids[sandbox.record.metadata.uid] = sandbox.id
            self.local.sandboxes[sandbox.id] = sandbox.record.config
        for container in self.core.containers.values():
            self.ids[self.key(container)] = container.id
        wrong = await self.compare()
        self.say("checked", wrong)
        if wrong:
            raise AssertionError(wrong)

    def key(self, container: Container) -> str:
        pod = self.core.sandboxes[container.record.sandbox_id].record.metadata.uid
        return f"{pod}/{container.record.metadata.name}"

    async def compare(self) -> list[str]:
        pods = {s.record.metadata.uid: s.ready for s in self.core.sandboxes.values()}
        containers = {}
        for container in self.core.containers.values():
            known = self.world.containers.get(self.key(container))
            if known and known.states == {EXITED}:
                # Killed a moment ago, perhaps: conmon has still to say so.
                await self.local.exited(container.id)
            status = await self.local.status(container.id)
            pid = container.record.process.pid if container.record.process else 0
            containers[self.key(container)] = status.state.name[10:].lower(), status.exit_code, pid
        wrong = self.world.check(pods, containers)
        self.say("seen", [pods, containers])
        end = time.monotonic() + 10.0
        while leaks := unexplained(self._config, set(self.ids.values()), self._netns()):
            # Links go with their namespace, which the kernel takes down in its own time.
            if time.monotonic() > end:
                return wrong + leaks
            await asyncio.sleep(0.01)
        return wrong

    def _netns(self) -> set[str]:
        return {s.record.netns for s in self.core.sandboxes.values()}

    def say(self, *message: Any) -> None:
        os.write(self._pipe, json.dumps(message).encode() + b"\n")

    async def asked(
        self,
        verb: str,
        key: str,
        work: Awaitable[T],
        *,
        what: Any = None,
        answer: Callable[[T], Any] = lambda _: None,
    ) -> T:
        self.say("asked", [verb, "begin", key, what])
        result = await work
        self.say("asked", [verb, "end", key, answer(result)])
        return result

    def new_name(self) -> str:
        self._names += 1
        return f"c{self.number}-{self._names}"

    # what is asked of it

    async def run_pod(self) -> str:
        self._pods += 1
        config = self.local.sandbox_config()
        pod = config.metadata.uid = f"uid-{self.number}-{self._pods}"
        config.metadata.name = pod
        config.linux.cgroup_parent = f"{Path(config.linux.cgroup_parent).parent}/pod{pod}"
        config.log_directory = str(self.local.logs / pod)
        if self._pods % 3 == 0:
            config.linux.security_context.namespace_options.pid = cri.NamespaceMode.POD
        self.ids[pod] = await self.asked("run_pod", pod, self.local.sandbox(config))
        return pod

    async def create(self, pod: str, name: str, *command: str) -> str:
        def named(config: cri.ContainerConfig) -> None:
            config.metadata.name = name
            config.log_path = f"{name}.log"

        key = f"{pod}/{name}"
        made = self.local.create(self.ids[pod], *(command or FOR_EVER), change=named)
        self.ids[key] = await self.asked("create", key, made)
        return key

    async def start(self, key: str, code: int | None = None) -> str:
        def pid(container_id: str) -> int:
            process = self.core.container(container_id).record.process
            return process.pid if process else 0

        await self.asked("start", key, self.local.start(self.ids[key]), what=code, answer=pid)
        return key

    async def exec(self, key: str) -> None:
        await self.asked("exec", key, self.local.exec(self.ids[key], "echo", "hi"))

    async def reopen(self, key: str) -> None:
        path = self.core.container(self.ids[key]).record.log_path
        with suppress(FileNotFoundError):
            os.rename(path, f"{path}.1")
        request = cri.ReopenContainerLogRequest(container_id=self.ids[key])
        await self.asked("reopen", key, self.runtime.reopen_container_log(request))

    async def stop(self, key: str) -> None:
        await self.asked("stop", key, self.local.stop(self.ids[key]))

    async def remove(self, key: str) -> None:
        request = cri.RemoveContainerRequest(container_id=self.ids[key])
        await self.asked("remove", key, self.runtime.remove_container(request))
        del self.ids[key]

    async def stop_pod(self, pod: str) -> None:
        request = cri.StopPodSandboxRequest(pod_sandbox_id=self.ids[pod])
        await self.asked("stop_pod", pod, self.runtime.stop_pod_sandbox(request))

    async def remove_pod(self, pod: str) -> None:
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=self.ids[pod])
        await self.asked("remove_pod", pod, self.runtime.remove_pod_sandbox(request))
        self.ids = {key: i for key, i in self.ids.items() if key.partition("/")[0] != pod}

    async def load_image(self) -> None:
        archive, config = self._config.root_dir.parent / "second.tar", RunConfig(cmd=["second"])
        await asyncio.to_thread(import_rootfs, self.core.images, archive, "second", config=config)

    async def remove_image(self) -> None:
        await self.runtime.remove_image(cri.RemoveImageRequest(image=cri.ImageSpec(image="second")))

    # what it works on

    async def pod(self) -> str:
        """A ready one."""
        for pod, sandbox_id in self.ids.items():
            if "/" not in pod and self.core.sandbox(sandbox_id).ready:
                return pod
        return await self.run_pod()

    async def container(self, state: str) -> str:
        """One in that state, in a ready pod."""
        pod = await self.pod()
        for key, container_id in self.ids.items():
            if key.startswith(f"{pod}/"):
                found = (await self.local.status(container_id)).state.name[10:].lower()
                if found == state:
                    return key
        key = await self.create(pod, self.new_name())
        if state != CREATED:
            await self.start(key)
        if state == EXITED:
            await self.stop(key)
        return key

    async def tidy(self, keep: int) -> None:
        """Remove all but so many pods, so that the machine does not fill."""
        pods = [key for key in self.ids if "/" not in key]
        for pod in pods[: len(pods) - keep]:
            await self.remove_pod(pod)


# the ways to live and die


async def _operation(life: Life, name: str) -> Callable[[], Awaitable[Any]]:
    """Make what the operation needs, and return it."""
    if name == "run pod":
        return life.run_pod
    if name == "create":
        pod = await life.pod()
        return lambda: life.create(pod, life.new_name())
    if name == "load image":
        return life.load_image
    if name == "remove image":
        await life.load_image()
        return life.remove_image
    if name in ("stop pod", "remove pod"):
        await life.container(CREATED)
        pod = (await life.container(RUNNING)).partition("/")[0]
        return lambda: (life.stop_pod if name == "stop pod" else life.remove_pod)(pod)
    state = {"start": CREATED, "remove": EXITED}.get(name, RUNNING)
    key = await life.container(state)
    verb = {"start": life.start, "exec": life.exec, "reopen": life.reopen, "stop": life.stop}
    return lambda: verb.get(name, life.remove)(key)


OPERATIONS = (
    "run pod",
    "create",
    "start",
    "exec",
    "reopen",
    "stop",
    "remove",
    "remove running",
    "stop pod",
    "remove pod",
    "load image",
    "remove image",
)


async def live_to_step(life: Life, operation: str, step: int) -> None:
    await life.begin()
    await life.tidy(2)
    work = await _operation(life, operation)
    life.countdown.arm(step)
    await work()
    life.say("survived", life.countdown.disarm())


async def live_with_pods(life: Life, seed: int) -> None:
    """Several pods at once, all verbs, until the end."""
    chance = random.Random(seed)
    await life.begin()
    await life.tidy(2)
    life.say("busy", None)
    await asyncio.gather(*(_pod_after_pod(life, chance) for _ in range(3)))


async def _pod_after_pod(life: Life, chance: random.Random) -> None:
    while True:
        pod = await life.run_pod()
        for number in range(chance.randrange(1, 3)):
            if ends := chance.random() < 0.5:
                command = ("sh", "-c", f"sleep 0.{chance.randrange(10):02}; exit {CODE}")
            key = await life.create(pod, f"c{number}", *(command if ends else FOR_EVER))
            await life.start(key, CODE if ends else None)
            for verb in chance.sample((life.exec, life.reopen, life.stop, life.remove), 2):
                if key in life.ids and (verb in (life.stop, life.remove) or not ends):
                    with suppress(CRIError):  # it was stopped or removed by the verb before
                        await verb(key)
        if chance.random() < 0.8:
            if chance.random() < 0.5:
                await life.stop_pod(pod)
            await life.remove_pod(pod)


async def live_without_help(life: Life, seed: int) -> None:
    """The helpers die; the runtime must neither hang nor lose anything, and can remove all of it."""
    chance = random.Random(seed)
    await life.begin()
    await life.tidy(0)
    murders = asyncio.create_task(_kill_helpers(life, chance))
    for _ in range(6):
        with suppress(CRIError):
            pod = await life.run_pod()
            keys = [await life.create(pod, f"c{n}") for n in range(2)]
            await asyncio.gather(*map(life.start, keys), return_exceptions=True)
            await life.exec(keys[0])
            await life.stop(keys[1])
    murders.cancel()
    await asyncio.wait({murders})
    life.say("murders", murders.result() if not murders.cancelled() else 0)
    for sandbox_id in list(life.core.sandboxes):
        await life.local.remove_sandbox(sandbox_id)
    life.ids.clear()
    life.world = World()
    wrong = await life.compare()
    life.say("checked", wrong)
    life.say("survived", 0)
    await life.runtime.stop()


async def _kill_helpers(life: Life, chance: random.Random) -> int:
    killed = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(chance.uniform(0.001, 0.03))
            found = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _helps(life, pid)]
            if found:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(found), signal.SIGKILL)
                    killed += 1
    return killed


def _helps(life: Life, pid: int) -> bool:
    words = command_line(pid)
    return words == ["/pause"] or any(f"root={life.core.paths.crun}" in word for word in words)


async def live_last(life: Life) -> None:
    """Wait for what ends by itself, remove everything, and find nothing."""
    await life.begin()
    for key, container in life.world.containers.items():
        if RUNNING in container.states and container.ends is not None:
            status = await life.local.exited(life.ids[key])
            if status.exit_code not in container.codes:
                life.say("checked", [f"container {key} ended with {status.exit_code}"])
    await life.tidy(0)
    life.ids.clear()
    life.say("checked", life.local.leftovers() + await life.compare())
    await life.load_image()
    tmp = list((life._config.image_dir / "tmp").iterdir())
    life.say("checked", [str(path) for path in tmp])
    await life.remove_image()
    drafts = [p for p in life._config.image_dir.rglob(".*") if "rootfs" not in p.parts]
    life.say("checked", [str(path) for path in drafts])
    life.say("survived", 0)
    await life.runtime.stop()


# the one that survives them all


@dataclass
class Driver:
    config: RuntimeConfig
    seed: int
    world: World = field(default_factory=World)
    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def live(
        self, kind: str, story: Callable[..., Awaitable[None]], *arguments: Any, within_s: float | None = None
    ) -> int | None:
        """One life; how many steps it made when it survived. `within_s`: kill it then."""
        self.lives += 1
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            _be(Life(self.config, self.world, self.lives, theirs), story, arguments)
        os.close(theirs)
        survived = self._listen(ours, child, within_s)
        os.close(ours)
        status = self._bury(child)
        if status == -signal.SIGKILL and not self.wrong:
            self.kills[kind] += 1
        elif survived is None:
            self.wrong.append(f"life {self.lives} ({kind} {arguments}) ended with {status}")
        if self.wrong:
            raise SystemExit(
                "\n".join([f"seed {self.seed}, life {self.lives}, {kind} {arguments}:", *self.wrong])
            )
        return survived

    def _listen(self, pipe: int, child: int, within_s: float | None) -> int | None:
        survived = None
        guard = time.monotonic() + LIFE_S
        buffer = b""
        os.set_blocking(pipe, False)
        while True:
            try:
                data = os.read(pipe, 65536)
            except BlockingIOError:
                self._reap_orphans(child)
                time.sleep(0.0005)
                if time.monotonic() > guard:
                    if within_s is None or guard > self._busy + within_s + 1:
                        self.wrong.append("it hung")
                    os.kill(child, signal.SIGKILL)
                    guard = time.monotonic() + LIFE_S
                continue
            if not data:
                return survived
            *lines, buffer = (buffer + data).split(b"\n")
            for kind, content in map(json.loads, lines):
                if kind == "survived":
                    survived = content
                elif kind == "busy" and within_s is not None:
                    self._busy = time.monotonic()
                    guard = self._busy + within_s
                else:
                    self._heard(kind, content)

    _busy = 0.0

    def _heard(self, kind: str, content: Any) -> None:
        if kind == "checked":
            self.wrong += content
        elif kind == "asked":
            self.world.heard(content)
        elif kind == "seen":
            self.world.check(content[0], {key: tuple(value) for key, value in content[1].items()})
        elif kind == "murders":
            self.kills["helper"] += content

    def _reap_orphans(self, child: int) -> None:
        """As PID 1 does: the end of a PID namespace waits for those that came into it by exec."""
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid == child:
                return
            os.waitpid(found.si_pid, 0)

    def _bury(self, child: int) -> int:
        """Reap it, and what it left to us that has ended."""
        while True:
            pid, status = os.wait()
            if pid == child:
                return os.waitstatus_to_exitcode(status)

    def kill_containers(self, chance: random.Random) -> None:
        """Some that run, while no runtime is there."""
        for key, container in self.world.containers.items():
            if container.states == {RUNNING} and container.pid and chance.random() < 0.3:
                with suppress(ProcessLookupError):
                    os.kill(container.pid, signal.SIGKILL)
                    self.world.killed(key)
                    self.kills["container"] += 1


def _be(life: Life, story: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]) -> None:
    try:
        asyncio.run(story(life, *arguments))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(base: Path, image_dir: Path, seed: int, kills: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    config = make_config(base, image_dir)
    config.cni_cache_dir.mkdir()
    with tarfile.open(base / "second.tar", "w") as tar:
        tar.add(Path(__file__).parent, arcname="tests")
    driver = Driver(config, seed)
    chance = random.Random(seed)
    deaths = _deaths(driver, chance, kills)
    for _ in range(kills // 3):
        driver.live("busy", live_with_pods, chance.random(), within_s=chance.uniform(0.0, 0.3))
        time.sleep(chance.choice((0.0, chance.uniform(0.0, 0.05))))
        driver.kill_containers(chance)
    for _ in range(max(1, kills // 60)):
        driver.live("helpers", live_without_help, chance.random())
    driver.live("last", live_last)
    print(json.dumps({"lives": driver.lives, "kills": driver.kills, "steps": deaths}))


def _deaths(driver: Driver, chance: random.Random, kills: int) -> dict[str, int]:
    """About half of the kills, spread over the steps of every operation; how many steps each has."""
    found = {}
    each = max(1, kills // 2 // len(OPERATIONS))
    for name in OPERATIONS:
        # Its length first; with threads and helpers at work it is not quite the same every time.
        steps = driver.live(f"step of {name}", live_to_step, name, 10**9) or 0
        found[name] = steps
        points = range(steps) if each >= steps else sorted(chance.sample(range(steps), each))
        for step in points:
            driver.live(f"step of {name}", live_to_step, name, step)
            driver.kill_containers(chance)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
