from __future__ import annotations

import io

import pytest

from podling.cli.pull_progress import ProgressView
from podling.runtime.images.download import Phase, PullProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(phase: Phase, digest: str, done: int = 0, size: int = 4_000_000) -> PullProgress:
    return PullProgress(phase=phase, digest=f"sha256:{digest * 64}", done_bytes=done, size_bytes=size)


def test_a_log_gets_a_line_for_each_step_and_none_for_bytes() -> None:
    out = io.StringIO()
    view = ProgressView(out)
    for progress in (
        told(Phase.WAITING, "a"),
        told(Phase.DOWNLOADING, "a", 1),
        told(Phase.DOWNLOADING, "a", 2),
        told(Phase.DOWNLOADED, "a"),
        told(Phase.DOWNLOADED, "a"),
        told(Phase.DONE, "a"),
    ):
        view(progress)
    view.close()
    assert out.getvalue() == "aaaaaaaaaaaa: Download complete\naaaaaaaaaaaa: Pull complete\n"


def test_a_terminal_is_drawn_over_and_shows_how_far_it_is() -> None:
    out = Terminal()
    view = ProgressView(out)
    view(told(Phase.EXISTS, "a"))
    view(told(Phase.DOWNLOADING, "b", 2_000_000))
    last = out.getvalue().rpartition("\x1b[1A")[2]
    assert last == (
        "\x1b[2Kaaaaaaaaaaaa: Already exists\n"
        "\x1b[2Kbbbbbbbbbbbb: Downloading [==============>               ] 2.0MB/4.0MB\n"
    )


def test_of_more_layers_than_lines_those_at_work_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "4")
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    view = ProgressView(out)
    for digest in "abcde":
        view(told(Phase.DONE, digest))
    view(told(Phase.WAITING, "f"))
    lines = out.getvalue().rpartition("\x1b[3A")[2].splitlines()
    assert [line.removeprefix("\x1b[2K")[:2] for line in lines] == ["ff", "aa", "bb"]
