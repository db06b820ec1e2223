"""Images of the working tree, and the engine that runs them; without an engine everything here is skipped.

WALARCHIVER_BUILD_NETWORK names the network in which images are built, where the default has no way out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2]
IMAGE = "walarchiver-test"
POSTGRES_IMAGE = "walarchiver-postgres-test"
BUILD_TIMEOUT_S = 1200
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S + TIMEOUT_S))


@dataclass(frozen=True)
class Engine:
    """The container engine's command line."""

    def call(self, *words: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def run(self, *words: str, timeout_s: float = TIMEOUT_S) -> str:
        """What the command printed; it must succeed."""
        done = self.call(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout.strip()

    def build(self, tag: str, *more: str, context: Path = SOURCE) -> str:
        network = os.environ.get("WALARCHIVER_BUILD_NETWORK")
        words = ["--network", network] if network else []
        self.run("build", "--tag", tag, *words, *more, str(context), timeout_s=BUILD_TIMEOUT_S)
        return tag


@pytest.fixture(scope="session")
def engine() -> Engine:
    """A container engine that answers."""
    if shutil.which("docker") is None:
        pytest.skip("no container engine: there is no docker on PATH")
    found = Engine()
    told = found.call("info", "--format", "{{.ServerVersion}}")
    if told.returncode != 0 or not told.stdout.strip():
        pytest.skip(f"no container engine answers: {told.stderr.strip()[-300:]}")
    return found


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The image of this source tree."""
    return engine.build(IMAGE)


@pytest.fixture(scope="session")
def postgres_image(engine: Engine) -> str:
    """PostgreSQL's image with the hook of this source tree in it."""
    return engine.build(POSTGRES_IMAGE, "--file", str(SOURCE / "deploy" / "compose" / "postgres.Dockerfile"))
