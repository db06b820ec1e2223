"""Writes the generated parts of docs/reliability.md: `python -m tests.nightly.reliability [SUMMARY.json]`.

Promises and scenarios come from their tables and are compared by test_reliability.py; figures come from the
summary of a nightly run and stay as they are until another one is given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutations.table import MUTATIONS
from tests.nightly.named import ROOT
from tests.nightly.promises import PROMISES
from tests.nightly.run import COUNTED, PARTS, passed
from tests.nightly.scenarios import SCENARIOS

PAGE = ROOT / "docs" / "reliability.md"


def promises() -> str:
    """Each promise: its tests, its mutations, and what stays open."""
    blocks = []
    for promise in PROMISES:
        lines = [f"**{promise.number}. {promise.text}**", ""]
        lines += [f"- tested by `{node}`" for node in promise.tests] or ["- no test"]
        lines += [
            f"- broken on purpose: it {one.breaks} (`{one.file}`)"
            for one in MUTATIONS
            if one.promise == promise.number
        ]
        if promise.open:
            lines.append(f"- open: {promise.open}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def scenarios() -> str:
    """A line per scenario and its tests."""
    lines = []
    for scenario in SCENARIOS:
        lines.append(f"{scenario.number}. {scenario.text}")
        lines += [f"   - `{node}`" for node in scenario.tests]
        if scenario.left_out:
            lines.append(f"   - open: {scenario.left_out}")
    return "\n".join(lines)


def figures(summary: dict[str, Any]) -> str:
    """What a nightly run did, part by part."""
    lines = [f"Machine: {summary['machine']}.", ""]
    lines += [
        "| part | result | what it did | took | begun (UTC) | seed | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in PARTS:
        result = summary["parts"].get(name)
        if result is None:
            lines.append(f"| {name} | not run | | | | | |")
            continue
        done = [f"{result[one]} {one}" for one in COUNTED if result.get(one)]
        done += [f"{amount} {what}" for what, amount in result.get("sums", {}).items()]
        verdict = "passed" if passed(result) else f"failed: {result['status']}"
        cells = (verdict, "; ".join(done), f"{result['seconds']} s, {result['jobs']} at a time")
        begun = result["date"][:16].replace("T", " ")
        lines.append(f"| {name} | {' | '.join(cells)} | {begun} | {result['seed']} | `{result['commit']}` |")
        lines += [f"| | failed | `{node}` | | | | |" for node in result.get("failed", ())]
    return "\n".join(lines)


def replaced(page: str, part: str, text: str) -> str:
    """The page with another text between the part's two marks."""
    begin, end = f"<!-- {part}: generated -->", f"<!-- end of {part} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"docs/reliability.md has no place for {part}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def written(page: str) -> str:
    """The page as the tables want it."""
    return replaced(replaced(page, "promises", promises()), "scenarios", scenarios())


def main(words: Sequence[str]) -> None:
    page = written(PAGE.read_text())
    for summary in words:
        page = replaced(page, "figures", figures(json.loads(Path(summary).read_text())))
    PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
