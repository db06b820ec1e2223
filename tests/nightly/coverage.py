"""Measures line and branch coverage of what must not fail: `python -m tests.nightly.coverage [--write]`.

Only tests that run the code in their own process count. `--write` puts the table into docs/reliability.md.
A way out of a `match` past its last case is not counted: mypy knows that there is none.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from tests.nightly.named import ROOT
from tests.nightly.reliability import PAGE, replaced
from walarchiver.clock import SystemClock
from walarchiver.core.moment import format_rfc3339

LEAST = 95
GROUPS = {
    "core": ["walarchiver/core/*"],
    "format": ["walarchiver/format/*"],
    "ledger": [
        *("walarchiver/ledger*.py", "walarchiver/chainreader.py", "walarchiver/entrystore.py"),
        *("walarchiver/rollup*.py", "walarchiver/checkpoints.py", "walarchiver/upkeep.py"),
    ],
    "archiver": [f"walarchiver/{name}.py" for name in ("archiver", "offered", "scanner", "depositor")],
    "fetcher": ["restore/fetcher.py", "restore/plainfile.py", "restore/core/policy.py"],
    "restore core": ["restore/core/*"],
}
TESTS = [
    *("tests/core", "tests/format", "tests/vectors", "tests/simulation", "tests/keys", "tests/shells"),
    *("tests/restore_core", "tests/contracts", "tests/cli"),
    *(f"tests/postgres/test_{name}.py" for name in ("backup_pieces", "rescued_tables", "touches")),
]


class Counts(NamedTuple):
    """Lines and branches: reached, and all."""

    lines: int = 0
    of_lines: int = 0
    branches: int = 0
    of_branches: int = 0

    def __add__(self, other: tuple[int, ...]) -> Counts:  # type: ignore[override]
        return Counts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def percents(self) -> tuple[float, float]:
        pairs = ((self.lines, self.of_lines), (self.branches, self.of_branches))
        return tuple(100 * part / whole if whole else 100.0 for part, whole in pairs)  # type: ignore[return-value]

    def __str__(self) -> str:
        lines, branches = self.percents
        return f"{lines:.1f} % of {self.of_lines} | {branches:.1f} % of {self.of_branches}"


def measured() -> dict[str, Any]:
    """What coverage.py says of each file, after a run of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COVERAGE_FILE": f"{folder}/data"}
        coverage = [sys.executable, "-m", "coverage"]
        run = [*coverage, "run", "--branch", "--source=walarchiver,restore", "-m", "pytest", "-q"]
        run += [path for path in TESTS if (ROOT / path).exists()]
        done = subprocess.run(run, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            print("some tests failed", file=sys.stderr)
        report = Path(folder, "report.json")
        subprocess.run([*coverage, "json", "-q", "-o", str(report)], cwd=ROOT, env=environment, check=True)
        files: dict[str, Any] = json.loads(report.read_text())["files"]
        return files


def counts(name: str, found: dict[str, Any]) -> Counts:
    """One file's, without the ways past a last `case`."""
    matches = [node for node in ast.walk(ast.parse((ROOT / name).read_text())) if isinstance(node, ast.Match)]
    last = {match.cases[-1].pattern.lineno: match.cases[-1].body[0].lineno for match in matches}
    none = sum(1 for at, to in found["missing_branches"] if at in last and to != last[at])
    summary = found["summary"]
    return Counts(
        summary["covered_lines"],
        summary["num_statements"],
        summary["covered_branches"],
        summary["num_branches"] - none,
    )


def table(files: dict[str, Any]) -> str:
    """The groups, and each module that is below the bound."""
    commit = ["git", "describe", "--always", "--dirty"]
    source = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    rows, low = [], []
    for group, patterns in GROUPS.items():
        total = Counts()
        for name, found in sorted(files.items()):
            if any(fnmatch(name, pattern) for pattern in patterns):
                one = counts(name, found)
                total += one
                if min(one.percents) < LEAST:
                    low.append(f"| `{name}` | {one} |")
        rows.append(f"| {group} | {total} |")
    head = ["| | lines | branches |", "| --- | --- | --- |"]
    text = [f"Measured {format_rfc3339(SystemClock().now_us())[:10]} on `{source}`.", "", *head, *rows]
    if low:
        text += ["", f"Modules below {LEAST} %:", "", *head, *low]
    return "\n".join(text)


def main(words: Sequence[str]) -> None:
    text = table(measured())
    print(text)
    if "--write" in words:
        PAGE.write_text(replaced(PAGE.read_text(), "coverage", text))


if __name__ == "__main__":
    main(sys.argv[1:])
