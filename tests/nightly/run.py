"""`./dev test --nightly [PART ...]`: the long tests, part by part, bounded in time, and a summary.

Rules:
- Each part is one pytest run; what it measured comes from the properties in its JUnit report.
- Parts run one after another. What was run before stays in the summary until it is run again.
- A part that does not end in its time is interrupted and counts as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.nightly.conftest import SEED_VARIABLE
from tests.nightly.named import ROOT
from tests.nightly.scenarios import SCENARIOS
from walarchiver.clock import SystemClock
from walarchiver.core.moment import CommitTime, format_rfc3339

OUT = ROOT / ".nightly"
WHOLE_S = 3 * 3600
GRACE_S = 60
NEW_YORK = {"TZ": "America/New_York"}
BY_TEST = ("--dist", "load")
BY_FILE = ("--dist", "loadfile")


@dataclass(frozen=True, slots=True)
class Part:
    """One pytest run."""

    words: tuple[str, ...]
    limit_s: int
    spread: tuple[str, ...] = BY_TEST
    environment: dict[str, str] = field(default_factory=dict)


def nodes_of_scenarios() -> tuple[str, ...]:
    return tuple(dict.fromkeys(node for scenario in SCENARIOS for node in scenario.tests))


PARTS = {
    "moments": Part(("tests/nightly/test_moments.py",), 3600),
    "plans": Part(("tests/nightly/test_planned_and_real.py",), 3000),
    "clocks": Part(("tests/nightly/test_stepped_clocks.py",), 1800),
    "kills": Part(("tests/nightly/test_kills.py",), 1800),
    "scenarios": Part(nodes_of_scenarios(), 2700, BY_FILE),
    "mutations": Part(("tests/mutations",), 1800),
    "more": Part(
        (
            "tests",
            "--ignore=tests/nightly",
            "--ignore=tests/mutations",
            "--ignore=tests/matrix/test_majors.py",
        ),
        1800,
        BY_FILE,
    ),
    "wheel": Part(("tests/nightly/test_wheel.py", "tests/nightly/test_coverage.py"), 600),
    "order": Part(("tests",), 2700, (*BY_FILE, "--no-loadscope-reorder"), NEW_YORK),
}
"""Seconds are limits on two cores, not what the parts usually take."""

MARKERS = {"order": "not containers and not nightly", "scenarios": "not containers"}


def pytest_words(name: str, report: Path, seed: int, jobs: int) -> list[str]:
    part = PARTS[name]
    words = [sys.executable, "-m", "pytest", *part.words, "-m", MARKERS.get(name, "nightly")]
    words += [f"--junitxml={report}", "--quiet", "--durations=10"]
    if jobs > 1:
        words += ["--numprocesses", str(jobs), *part.spread]
    if name == "order":
        words += ["--order-seed", str(seed)]
    return words


def run_part(name: str, out: Path, seed: int, jobs: int, limit_s: float) -> dict[str, Any]:
    """Run one part to its end or its limit; what came of it."""
    clock, report = SystemClock(), out / f"{name}.xml"
    report.unlink(missing_ok=True)
    began, began_s = clock.now_us(), clock.monotonic_s()
    environment = {**os.environ, **PARTS[name].environment, SEED_VARIABLE: str(seed)}
    words = pytest_words(name, report, seed, jobs)
    program = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status: int | str = program.wait(limit_s)
    except subprocess.TimeoutExpired:
        status = f"interrupted after {limit_s:.0f} s"
        interrupt(program)
    except KeyboardInterrupt:
        interrupt(program)
        raise
    return {
        "date": format_rfc3339(CommitTime(began)),
        "seconds": round(clock.monotonic_s() - began_s),
        "jobs": jobs,
        "seed": seed,
        "commit": commit(),
        "status": status,
        **(figures(report) if report.is_file() else {}),
    }


def interrupt(program: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does, so that fixtures stop their servers; then without mercy."""
    program.send_signal(signal.SIGINT)
    try:
        program.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def figures(report: Path) -> dict[str, Any]:
    """Counts and summed properties of a JUnit report, and the names of what failed."""
    suites = list(Xml.parse(report).getroot().iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTED}
    sums: dict[str, int] = {}
    failed = []
    for suite in suites:
        for case in suite.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}")
            for one in case.iter("property"):
                if (name := one.get("name", "")) != "seed":
                    sums[name] = sums.get(name, 0) + int(one.get("value", 0))
    return {**counts, "failed": failed, "sums": sums}


COUNTED = ("tests", "failures", "errors", "skipped")


def passed(result: dict[str, Any]) -> bool:
    return result["status"] == 0 and result.get("tests", 0) > result.get("skipped", 0)


def commit() -> str:
    """Which source was run; `+` when files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {pages} GiB, {platform.system()} {platform.machine()}, Python {python}"


def as_text(summary: dict[str, Any]) -> str:
    """A line per part, and what failed."""
    lines = [f"nightly on {summary['machine']}"]
    for name in PARTS:
        result = summary["parts"].get(name)
        if result is None:
            lines.append(f"  {name:<10} not run")
            continue
        verdict = "passed" if passed(result) else f"FAILED (status {result['status']})"
        counted = ", ".join(f"{result[one]} {one}" for one in COUNTED if result.get(one))
        lines.append(
            f"  {name:<10} {verdict} in {result['seconds']} s on {result['date']}, jobs {result['jobs']}, "
            f"seed {result['seed']}: {counted}"
        )
        lines += [f"             {amount} {what}" for what, amount in result.get("sums", {}).items()]
        lines += [f"             failed: {node}" for node in result.get("failed", ())]
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev test --nightly")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="tests at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="reports and summary")
    args = parser.parse_args(words)
    chosen = args.parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would inherit "ignore"
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "summary.json"
    summary = json.loads(kept.read_text()) if kept.is_file() else {"parts": {}}
    summary["machine"] = machine()
    ends_s = SystemClock().monotonic_s() + WHOLE_S
    for name in chosen:
        limit_s = max(min(PARTS[name].limit_s, ends_s - SystemClock().monotonic_s()), 1)
        print(f"nightly: {name}, seed {args.seed}, at most {limit_s:.0f} s", flush=True)
        summary["parts"][name] = run_part(name, args.out.resolve(), args.seed, args.jobs, limit_s)
        kept.write_text(json.dumps(summary, indent=2) + "\n")
    text = as_text(summary)
    (args.out / "summary.txt").write_text(text + "\n")
    print(text)
    return 0 if all(passed(summary["parts"][name]) for name in chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
