"""What pyproject.toml cannot say: how the hook is built. Everything else is said there.

Rules:
- `walarchiver-hook` is the compiled hook where bin/build-hook can make one, else the Python one's launcher.
- The launcher is installed beside it in any case, as `walarchiver-hook-python`.
- Without a compiler the build goes on: the two do the same, one at a tenth of the cost.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.dist import Distribution

HERE = Path(__file__).resolve().parent
NAME = "walarchiver-hook"

_build_scripts = Distribution().get_command_class("build_scripts")


class BuildScripts(_build_scripts):
    """Copies the scripts, then puts the compiled hook into the launcher's place."""

    def copy_scripts(self) -> tuple[list[str], list[str]]:
        self.force = True  # what an earlier build left there may be the compiled one
        copied, changed = super().copy_scripts()
        launcher = Path(self.build_dir, NAME)
        twin = launcher.with_name(f"{NAME}-python")
        shutil.copy(launcher, twin)
        built = subprocess.run(["sh", str(HERE / "bin" / "build-hook"), str(launcher)], check=False)
        if built.returncode != 0:
            self.warn(f"{NAME} is not compiled: the Python one is installed in its place")
        return [*copied, str(twin)], [*changed, str(twin)]


if __name__ == "__main__":
    setup(cmdclass={"build_scripts": BuildScripts})
