"""Measures line and branch coverage of what must not fail: `python -m tests.nightly.coverage [--write]`.

- Only tests that run the code in their own process count.
- They run on a copy of the source, folder by folder, each bounded in time: what is edited meanwhile does not
  mix in, and what hangs does not take the rest along.
- `--write` puts the table into docs/reliability.md, unless something failed: then figures mean nothing.
- A way out of a `match` past its last case is not counted: mypy knows that there is none.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from tests.nightly.named import ROOT
from tests.nightly.reliability import PAGE, replaced
from tests.nightly.run import interrupt
from walarchiver.clock import SystemClock
from walarchiver.core.moment import format_rfc3339

LEAST = 95
PIECE_S = 1800
"""The longest takes a fifth of it on two cores."""
GROUPS = {
    "core": ["walarchiver/core/*"],
    "format": ["walarchiver/format/*"],
    "ledger": [
        *("walarchiver/ledger*.py", "walarchiver/chainreader.py", "walarchiver/entrystore.py"),
        *("walarchiver/rollup*.py", "walarchiver/checkpoints.py", "walarchiver/upkeep.py"),
    ],
    "archiver": [f"walarchiver/{name}.py" for name in ("archiver", "offered", "scanner", "depositor")],
    "fetcher": [f"restore/{name}.py" for name in ("fetcher", "prefetch", "plainfile", "core/policy")],
    "restore core": ["restore/core/*"],
}
PIECES = [
    *("tests/core", "tests/format", "tests/vectors", "tests/simulation", "tests/keys", "tests/shells"),
    *("tests/restore_core", "tests/evidence", "tests/contracts", "tests/cli"),
    *(f"tests/postgres/test_{name}.py" for name in ("backup_pieces", "rescued_tables", "touches")),
]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".nightly", "__pycache__", ".*_cache", ".hypothesis")


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


@dataclass(frozen=True)
class Measured:
    """What the pieces reached, file by file, and which of them did not pass."""

    source: str
    files: dict[str, Counts]
    failed: list[str]


def measured(pieces: Sequence[str], *, limit_s: float = PIECE_S) -> Measured:
    """Run the tests piece by piece on a copy of the source."""
    describe = ["git", "describe", "--always", "--dirty"]
    source = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="wa-coverage-") as name:
        copy = Path(name, "source")
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        environment = {**os.environ, "COVERAGE_FILE": f"{name}/data", "PYTHONPATH": str(copy)}
        coverage = [sys.executable, "-m", "coverage"]
        failed = []
        for piece in pieces:
            print(f"coverage: {piece}, at most {limit_s:.0f} s", flush=True)
            words = [*coverage, "run", "--parallel-mode", "--branch", "--source=walarchiver,restore"]
            words += ["-m", "pytest", "-q", "-p", "no:cacheprovider", piece]
            program = subprocess.Popen(words, cwd=copy, env=environment, start_new_session=True)
            try:
                status = program.wait(limit_s)
            except subprocess.TimeoutExpired:
                interrupt(program)
                status = -1
            except KeyboardInterrupt:
                interrupt(program)
                raise
            if status:
                failed.append(piece)
        report = Path(name, "report.json")
        for more in (["combine", "-q"], ["json", "-q", "-o", str(report)]):
            subprocess.run([*coverage, *more], cwd=copy, env=environment, check=not failed)
        files = json.loads(report.read_text())["files"] if report.is_file() else {}
        return Measured(source, {file: counts(copy / file, found) for file, found in files.items()}, failed)


def counts(file: Path, found: dict[str, Any]) -> Counts:
    """One file's, without the ways past a last `case`."""
    matches = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Match)]
    last = {match.cases[-1].pattern.lineno: match.cases[-1].body[0].lineno for match in matches}
    none = sum(1 for at, to in found["missing_branches"] if at in last and to != last[at])
    summary = found["summary"]
    return Counts(
        summary["covered_lines"],
        summary["num_statements"],
        summary["covered_branches"],
        summary["num_branches"] - none,
    )


def table(result: Measured) -> str:
    """The groups, and each module that is below the bound."""
    rows, low = [], []
    for group, patterns in GROUPS.items():
        total = Counts()
        for name, one in sorted(result.files.items()):
            if any(fnmatch(name, pattern) for pattern in patterns):
                total += one
                if min(one.percents) < LEAST:
                    low.append(f"| `{name}` | {one} |")
        rows.append(f"| {group} | {total} |")
    head = ["| | lines | branches |", "| --- | --- | --- |"]
    date = format_rfc3339(SystemClock().now_us())[:10]
    text = [f"Measured {date} on `{result.source}`.", "", *head, *rows]
    if low:
        text += ["", f"Modules below {LEAST} %:", "", *head, *low]
    return "\n".join(text)


def main(words: Sequence[str]) -> int:
    result = measured(PIECES)
    text = table(result)
    print(text)
    if result.failed:
        print(f"coverage: not written, since these did not pass: {', '.join(result.failed)}", file=sys.stderr)
        return 1
    if "--write" in words:
        PAGE.write_text(replaced(PAGE.read_text(), "coverage", text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
