"""The one thing pyproject.toml cannot say: compile our C programs into the package.

Without a C compiler the package is still built; who needs a program is then told what to install.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "src"))

from podling.linux.cbuild import BuildError
from podling.network.flannel.forwarder import FORWARDER
from podling.pause.build import PAUSE

PROGRAMS = {"pause": PAUSE, "network/flannel": FORWARDER}
"""By their folder in the package."""


class BuildWithPrograms(build_py):
    def run(self) -> None:
        super().run()
        for folder, program in PROGRAMS.items():
            target = Path("src" if self.editable_mode else self.build_lib, "podling", folder, program.name)
            try:
                program.build(target)
            except BuildError as err:
                print(f"warning: {err}", file=sys.stderr)


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        """A wheel with a compiled program in it is of one platform."""
        return True


setup(cmdclass={"build_py": BuildWithPrograms}, distclass=BinaryDistribution)
