"""The report: Markdown for people, JSON for programs, from the same values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from benchmarks.bench.figures import Pair, Section, Spread, Table, percentile, ratios


def markdown(facts: Mapping[str, str], sections: Iterable[Section]) -> str:
    """The whole report."""
    lines = ["# walarchiver beside its peers and beside the machine's limit", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "CPU is of all client processes, daemonised helpers and our server included; the S3 server is not",
        "in it; s/GB is per 10**9 plain bytes. Median [min-max] over rounds; contestants took turns in each",
        "round, and ratios are taken within a round. A peer / walarchiver: above 1, walarchiver needs less.",
        "walarchiver / ideal: so far is it above the machine's limit.",
    ]
    for section in sections:
        lines += ["", f"## {section.title}", "", *section_lines(section)]
    return "\n".join(lines) + "\n"


def section_lines(section: Section) -> list[str]:
    """One section without its heading."""
    lines = [*section.notes, ""] if section.notes else []
    if section.measures:
        lines += _table(measure_table(section))
    if ratio_rows := [row for pair in section.pairs if (row := _ratio_row(section, pair)) is not None]:
        lines += ["", *_table(Table(("ratio", "wall x", "CPU x", "stored x", "goal"), tuple(ratio_rows)))]
    for table in section.tables:
        lines += ["", *([f"{table.title}", ""] if table.title else []), *_table(table)]
    return lines


def measure_table(section: Section) -> Table:
    """A row per contestant, with columns that somebody has values for."""
    head = ["", "rounds", "wall s", "raw MB/s", "CPU s/GB", "RSS (PSS) MB"]
    shows_stored = any(one.stored for one in section.measures)
    shows_server = any(one.server_cpu_s for one in section.measures)
    head += ["stored MB"] if shows_stored else []
    head += ["call ms p50", "p99"] if section.has_calls else []
    head += ["S3 server CPU s"] + (["PostgreSQL CPU s"] if shows_server else [])
    rows = []
    for label in section.labels():
        own = section.of(label)
        row = [label, str(len(own)), Spread.of(one.wall_s for one in own).text(2)]
        row += [Spread.of(one.mb_per_s for one in own).text(0)]
        row += [Spread.of(one.cpu_per_gb for one in own).text(2)]
        row += [f"{max(one.rss for one in own) / 1e6:.0f} ({max(one.pss for one in own) / 1e6:.0f})"]
        row += [Spread.of(one.stored for one in own).text(1, 1e-6)] if shows_stored else []
        if section.has_calls:
            calls = [call for one in own for call in one.calls_s]
            row += [f"{percentile(calls, share) * 1e3:.1f}" if calls else "" for share in (0.5, 0.99)]
        row += [Spread.of(one.store_cpu_s for one in own).text(1)]
        row += [Spread.of(one.server_cpu_s for one in own).text(1)] if shows_server else []
        rows.append(tuple(row))
    return Table(tuple(head), tuple(rows))


def _ratio_row(section: Section, pair: Pair) -> tuple[str, ...] | None:
    wall = ratios(section, pair, lambda one: one.wall_per_byte)
    if not wall:
        return None
    cpu = ratios(section, pair, lambda one: one.cpu_per_gb)
    stored = ratios(section, pair, lambda one: one.stored / one.plain)
    goals = [f"wall {pair.goal_wall}"] if pair.goal_wall else []
    goals += [f"CPU {pair.goal_cpu}"] if pair.goal_cpu else []
    return (
        f"{pair.theirs} / {pair.ours}",
        Spread.of(wall).text(),
        Spread.of(cpu).text() if cpu else "",
        Spread.of(stored).text() if stored and any(stored) else "",
        ", ".join(goals),
    )


def _table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(table.head) + " |", "| " + " | ".join("---" for _ in table.head) + " |"]
    return lines + ["| " + " | ".join(row) + " |" for row in table.rows]


def document(facts: Mapping[str, str], sections: Iterable[Section]) -> str:
    """The same as JSON: every measure, and every ratio of every round."""
    told = [
        {
            "name": section.name,
            "title": section.title,
            "notes": section.notes,
            "took_s": round(section.took_s, 1),
            "measures": [asdict(one) for one in section.measures],
            "ratios": [
                {
                    "theirs": pair.theirs,
                    "ours": pair.ours,
                    "wall": ratios(section, pair, lambda one: one.wall_per_byte),
                    "cpu": ratios(section, pair, lambda one: one.cpu_per_gb),
                }
                for pair in section.pairs
            ],
            "tables": [asdict(table) for table in section.tables],
        }
        for section in sections
    ]
    return json.dumps({"facts": dict(facts), "sections": told}, indent=1) + "\n"
