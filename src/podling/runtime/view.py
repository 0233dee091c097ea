"""A look at a runtime from outside: records from disk, states from the kernel. No agent needs to run.

For the command line on a node. A record says what was; whether a process lives, the kernel says, and how it
ended, conmon's exit file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from podling.runtime.byhand.settings import Settings, read_settings
from podling.runtime.config import RuntimeConfig
from podling.runtime.conmon import read_exit
from podling.runtime.state import ContainerPhase, ContainerRecord, Paths, Records, SandboxPhase, SandboxRecord

PAUSE_IMAGE = "podling/pause"


class State(StrEnum):
    """Docker's words."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A container, or the pause container of a sandbox. Times in nanoseconds since 1970, 0 for never."""

    id: str
    name: str
    image: str
    command: list[str]
    state: State
    pid: int = 0
    exit_code: int = 0
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    sandbox: SandboxRecord | None
    container: ContainerRecord | None = None
    """None for pause."""
    settings: Settings | None = None
    """Of a container run by hand; it has no sandbox."""
    paths: Paths


class View:
    def __init__(self, config: RuntimeConfig) -> None:
        self.paths = Paths(config)
        self._records = Records(self.paths)

    def all(self) -> list[Seen]:
        """Newest first, as `docker ps` has it."""
        sandboxes = {record.id: record for record in self._records.sandboxes()}
        seen = [*(_pause(record, self.paths) for record in sandboxes.values()), *self._containers(sandboxes)]
        return sorted(seen, key=lambda one: one.created_at, reverse=True)

    def _containers(self, sandboxes: dict[str, SandboxRecord]) -> Iterator[Seen]:
        for record in self._records.containers():
            if record.phase is not ContainerPhase.CREATING:
                yield self._container(record, sandboxes.get(record.sandbox_id))

    def _container(self, record: ContainerRecord, sandbox: SandboxRecord | None) -> Seen:
        state, exit_code, finished_at = State.CREATED, record.exit_code, record.finished_at
        alive = record.process is not None and record.process.alive
        if record.phase is ContainerPhase.EXITED:
            state = State.EXITED
        elif record.phase is ContainerPhase.RUNNING:
            state = State.RUNNING if alive else State.EXITED
            if not alive:
                ended = read_exit(self.paths.exit_file(record.id))
                exit_code, finished_at = ended or (255, 0)
        return Seen(
            id=record.id,
            name=record.name,
            image=record.image_name,
            command=record.command,
            state=state,
            pid=record.process.pid if record.process and state is State.RUNNING else 0,
            exit_code=exit_code,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=finished_at,
            sandbox=sandbox,
            container=record,
            settings=None if record.sandbox_id else read_settings(self.paths.layer(record.id)),
            paths=self.paths,
        )

    def find(self, wanted: str) -> list[Seen]:
        return fitting(self.all(), wanted)


class Views:
    """Several runtimes of one machine as one."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def all(self) -> list[Seen]:
        seen = [one for view in self._views for one in view.all()]
        return sorted(seen, key=lambda one: one.created_at, reverse=True)

    def find(self, wanted: str) -> list[Seen]:
        return fitting(self.all(), wanted)


def fitting(seen: list[Seen], wanted: str) -> list[Seen]:
    """By id, name or unambiguous id prefix; several when the prefix fits several."""
    exact = [one for one in seen if wanted in (one.id, one.name)]
    return exact or [one for one in seen if wanted and one.id.startswith(wanted)]


def _pause(record: SandboxRecord, paths: Paths) -> Seen:
    alive = record.pause is not None and record.pause.alive
    state = State.RUNNING if alive else State.EXITED
    if record.phase is SandboxPhase.CREATING and not alive:
        state = State.CREATED
    return Seen(
        id=record.id,
        name=record.name,
        image=PAUSE_IMAGE,
        command=["/pause"],
        state=state,
        pid=record.pause.pid if record.pause and alive else 0,
        created_at=record.created_at,
        started_at=record.created_at if record.pause else 0,
        sandbox=record,
        paths=paths,
    )
