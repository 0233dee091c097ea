"""The one thing pyproject.toml cannot say: compile pause.c into the package.

Without a C compiler the package is still built; `podling.pause.build.pause_path` then says what to install.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithPause(build_py):
    def run(self) -> None:
        super().run()
        pause = runpy.run_path(str(HERE / "src/podling/pause/build.py"))
        folder = Path("src" if self.editable_mode else self.build_lib, "podling/pause")
        try:
            pause["build"](folder / "pause")
        except pause["PauseBuildError"] as err:
            print(f"warning: {err}", file=sys.stderr)


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        """A wheel with a compiled program in it is of one platform."""
        return True


setup(cmdclass={"build_py": BuildWithPause}, distclass=BinaryDistribution)
