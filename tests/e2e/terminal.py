"""A program on a terminal of its own, typed at and read from as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from types import TracebackType


class Terminal:
    """`with Terminal(argv, env) as t: t.expect("# "); t.type("ls\\n")`"""

    def __init__(self, argv: list[str], env: Mapping[str, str], *, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        # The terminal must be the program's controlling one, or it hears nothing of a change of its size.
        self._process = subprocess.Popen(argv, env=env, preexec_fn=lambda: os.login_tty(slave))
        os.close(slave)
        self._unread = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, *, timeout_s: float = 20.0) -> str:
        """All that came up to and including `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self._unread:
            self._read(deadline, f"{text!r} in {self._unread!r}")
        seen, _, self._unread = self._unread.partition(text)
        return seen + text

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """The exit code, after reading to the end."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._read(deadline, "the end")
        except EOFError:
            return self._process.wait(timeout_s)

    def _read(self, deadline: float, wanted: str) -> None:
        readable, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise AssertionError(f"waited in vain for {wanted}")
        try:
            data = os.read(self._master, 65536)
        except OSError as err:  # EIO: the other end is closed (`man 7 pty`)
            raise EOFError(f"the program ended before {wanted}") from err
        self._unread += data.decode(errors="replace")
