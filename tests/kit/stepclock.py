"""A clock of PostgreSQL's own that a test sets forwards and backwards while the server runs.

Rules:
- `stepclock.c` is compiled once a session by this machine's compiler; without one, tests that ask for a clock
  are skipped and say so.
- Only the wall clock of processes started with `environment` moves; ours, and every monotonic one, does not.
"""

from __future__ import annotations

import mmap
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit.postgres import open_folder

SOURCE = Path(__file__).with_name("stepclock.c")
_BYTES = 8


class StepClock:
    """How far the wall clock is off, in microseconds; of every process that has `environment`."""

    def __init__(self, library: Path, folder: Path) -> None:
        path = folder / "clock-step"
        path.write_bytes(bytes(_BYTES))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _BYTES)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "TEST_CLOCK_STEP": str(path)}
        self._ahead_us = 0

    @property
    def ahead_us(self) -> int:
        return self._ahead_us

    def step(self, by_us: int) -> None:
        """Set the clock forwards, or backwards."""
        self._ahead_us += by_us
        self._page[:] = self._ahead_us.to_bytes(_BYTES, "little", signed=True)

    def set_right(self) -> None:
        """Back to the machine's time."""
        self.step(-self._ahead_us)

    def close(self) -> None:
        self._page.close()


@pytest.fixture(scope="session")
def step_library() -> Iterator[Path]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the stepping clock with")
    folder = open_folder("wa-clock-")
    library = folder / "stepclock.so"
    words = [
        compiler,
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library.chmod(0o755)
    yield library
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def step_clock(step_library: Path, pg_folder: Path) -> Iterator[StepClock]:
    clock = StepClock(step_library, pg_folder)
    yield clock
    clock.close()
