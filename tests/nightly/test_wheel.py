"""The built wheel in an environment of its own, far from the source tree: the whole story, with its proof."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.packaging.test_distribution import environment as environment
from tests.packaging.test_distribution import source as source
from tests.packaging.test_distribution import wheel as wheel

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

KEPT = ("HOME", "WALARCHIVER_BINARIES", "XDG_CACHE_HOME", "LANG")


@pytest.mark.parametrize("major", [15, 18])
def test_the_installed_wheel_archives_restores_and_proves(
    environment: Path, tmp_path: Path, major: int
) -> None:
    around = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run(
        [environment / "bin" / "walarchiver", "demo", "--fast", "--major", str(major), "--output", "json"],
        cwd=tmp_path,
        env={**around, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["proof"]["holds"] is True
