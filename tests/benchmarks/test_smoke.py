"""`./dev bench` itself, as small as it goes: that it runs and reports, not what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench.driver import ROOT

pytestmark = pytest.mark.nightly


def test_a_quick_run_ends_with_a_report_of_what_was_asked_for(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.bench", "--quick", "--no-fetch", "--out", str(tmp_path)]
    done = subprocess.run(
        [*words, "single", "pipeline", "fetch"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("*-quick.json")
    told = {one["name"]: one for one in json.loads(report.read_text())["sections"]}
    assert list(told) == ["single", "pipeline", "fetch", "replay"]
    for name in ("single", "fetch", "replay"):
        assert "walarchiver" in {one["label"] for one in told[name]["measures"]}
    assert told["pipeline"]["ratios"][0]["cpu"]
    assert report.with_suffix(".md").read_text().startswith("# walarchiver beside its peers")
