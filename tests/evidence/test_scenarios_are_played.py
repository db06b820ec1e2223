"""Every scenario of the evidence bucket is played by a test that says so: `[scenario N]` in its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("evidence", "contracts", "simulation", "integration")

SCENARIOS = {
    1: "as-of between versions and markers",
    2: "an object from before versioning",
    3: "suspended versioning",
    4: "one key with 2500 entries",
    5: "a page lost or repeated, listings that disagree",
    6: "two puts in one second",
    7: "a purge between two listings",
    8: "duplicate and reordered events",
    9: "events lost for an hour",
    10: "references present, deleted, never there",
    11: "references with version ids",
    12: "missing-only",
    13: "a dry run writes nothing",
    14: "keys that came later",
    15: "markers removed, and only markers",
    16: "tags, metadata and headers survive a copy",
    17: "archived versions",
    18: "a lifecycle rule shorter than the retention",
    19: "the archiver's policy",
    20: "forty writers of one segment",
    21: "a server that ignores If-None-Match",
    22: "rebuilt from the repository",
    23: "prune under COMPLIANCE",
    24: "a pin older than the noncurrent expiry",
}
NOT_YET = {
    23: "there is no prune; the model keeps locked versions (tests/models3/test_conditions.py)",
}


def _played() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).glob("test_*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in re.findall(r"\[scenario (\d+)\]", ast.get_docstring(node) or ""):
                    found.setdefault(int(number), []).append(f"{path.name}::{node.name}")
    return found


def test_every_scenario_is_played_or_said_not_to_be() -> None:
    played = _played().keys()
    assert SCENARIOS.keys() - played <= NOT_YET.keys()
    assert played <= SCENARIOS.keys()
