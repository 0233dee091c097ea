"""The one thing pyproject.toml cannot say: compile our C programs into the package.

Without a C compiler the package is still built; who needs a program is then told what to install.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "src"))

from podling.linux.cbuild import BuildError
from podling.network.flannel.forwarder import FORWARDER
from podling.pause.build import FREESTANDING, LAUNCH, PAUSE

PROGRAMS = {"pause": [PAUSE], "network/flannel": [FORWARDER]}
"""By their folder in the package."""
if platform.machine() in FREESTANDING:
    PROGRAMS["pause"].append(LAUNCH)


class BuildWithPrograms(build_py):
    def run(self) -> None:
        super().run()
        package = Path("src" if self.editable_mode else self.build_lib, "podling")
        for folder, programs in PROGRAMS.items():
            for program in programs:
                try:
                    program.build(package / folder / program.name)
                except BuildError as err:
                    print(f"warning: {err}", file=sys.stderr)


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        """A wheel with a compiled program in it is of one platform."""
        return True


setup(cmdclass={"build_py": BuildWithPrograms}, distclass=BinaryDistribution)
