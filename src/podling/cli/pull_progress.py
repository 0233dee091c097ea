"""Progress of `podling image pull`: a line a layer, drawn over on a terminal as docker does it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from podling.runtime.images.download import Phase, PullProgress

_REDRAW_S = 0.1
_BAR = 30
_QUIET_PHASES = frozenset({Phase.WAITING, Phase.DOWNLOADING})  # of no use in a log


class ProgressView:
    """Call it with each `PullProgress`; `close` leaves the last state on the screen. Writes to standard
    error, so that standard output is the image's id alone."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._blobs: dict[str, PullProgress] = {}
        self._drawn_lines = 0
        self._drawn_at = 0.0

    def __call__(self, progress: PullProgress) -> None:
        before = self._blobs.get(progress.digest)
        self._blobs[progress.digest] = progress
        changed = before is None or before.phase != progress.phase
        if not self._terminal:
            if changed and progress.phase not in _QUIET_PHASES:
                self._out.write(f"{_short(progress)}: {progress.phase}\n")
        elif changed or time.monotonic() - self._drawn_at >= _REDRAW_S:
            self._draw()

    def close(self) -> None:
        if self._terminal and self._blobs:
            self._draw()

    def _draw(self) -> None:
        columns, rows = shutil.get_terminal_size()
        shown = list(self._blobs.values())
        if len(shown) >= rows:
            # Only what fits can be drawn over again: those that are not done come first.
            shown.sort(key=lambda one: one.phase in (Phase.DONE, Phase.EXISTS))
        lines = [self._line(one)[: columns - 1] for one in shown[: max(rows - 1, 1)]]
        up = f"\x1b[{self._drawn_lines}A" if self._drawn_lines else ""
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._out.flush()
        self._drawn_lines = max(len(lines), self._drawn_lines)
        self._drawn_at = time.monotonic()

    @staticmethod
    def _line(progress: PullProgress) -> str:
        text = f"{_short(progress)}: {progress.phase}"
        if progress.phase is not Phase.DOWNLOADING:
            return text
        filled = _BAR * progress.done_bytes // max(progress.size_bytes, 1)
        bar = "=" * max(filled - 1, 0) + ">" + " " * (_BAR - max(filled, 1))
        return f"{text} [{bar}] {megabytes(progress.done_bytes)}/{megabytes(progress.size_bytes)}"


def _short(progress: PullProgress) -> str:
    return progress.digest.removeprefix("sha256:")[:12]


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f}kB"
