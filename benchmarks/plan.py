"""What planning costs as the catalog grows: a curve over catalogs of 35 days, 7 timelines, 35 base backups.

Run by `./dev shell python -m benchmarks.plan [--full] [--questions 100]`. It makes catalogs of 10^4, 10^5 and
10^6 (with --full also 3 * 10^6) scanned segments, each timeline leaving the one before it, with a horizon
sample per segment, prepared transactions, restore points, raised limits and clock steps here and there; then
it asks for seconds at random over all of the time and a little more, and prints Markdown.

- No WAL exists: where a plan opens a segment, its events are made up on the spot. How many segments a plan
  opens is in the table, since that is what it costs on top with a real archive.
- `xid`: targets by a transaction's id, anywhere behind the first base backup; warm.
- `cold`: the catalog file newly opened, its pages dropped from the system's cache. `warm`: opened before.
  Both hold the whole of it: reading the view from the catalog, and deciding.
- `taking in` is measured with the product's own code, segment by segment, for 10^4 segments. Larger
  catalogs get the same rows in bulk; that these are the same is checked with the first 10^4.
- Times are wall clock; `CPU` is the process's own time, which says more on a machine that is busy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import cast

from benchmarks.planworld import BEGAN, DAY_US, DAYS, FIRST, SIZE, SYSTEM, World, build
from restore.core.model import AtTime, AtXid, Decision, Target
from restore.core.planner import decide
from restore.planning import view_of
from restore.walreader import WalReader
from walarchiver.catalog import Catalog
from walarchiver.catalogfile import open_catalog_file
from walarchiver.chronology import put
from walarchiver.core.history import TimelineHistory
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event
from walarchiver.core.segment import Segment
from walarchiver.projecting import origin_of
from walarchiver.repository import Repository

TAKEN_IN = 10_000
"""Segments that are taken in one by one."""

# --- measuring ---------------------------------------------------------------------------------------


def taken_in(folder: Path) -> tuple[float, float, float]:
    """Microseconds a segment: all of its records; of that the index; and CPU time of the index."""
    world = World(TAKEN_IN)
    scans = [
        world.scan(timeline, n) for timeline, first, last in world.spans() for n in range(first, last + 1)
    ]
    records = [world.records(scan) for scan in scans]
    catalog = Catalog(folder / "taken-in.db")
    began = time.perf_counter()
    for seq in range(0, len(records), 50):
        some = [record for pair in records[seq : seq + 50] for record in pair]
        catalog.apply(seq=seq // 50, sha256="", time_us=1, writer="w", records=some)
    whole = time.perf_counter() - began
    catalog.close()
    db = open_catalog_file(folder / "index.db")
    began, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(scans), 50):
        db.execute("BEGIN IMMEDIATE")
        for scan in scans[at : at + 50]:
            put(db, scan, origin_of(SYSTEM, SIZE))
        db.execute("COMMIT")
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    db.close()
    build(folder / "bulk.db", world)
    for table in ("span", "scanned", "chain", "listed"):
        one, other = (
            sqlite3.connect(folder / name).execute(f"SELECT * FROM {table}").fetchall()
            for name in ("bulk.db", "taken-in.db")
        )
        assert one == other, f"{table}: rows made in bulk differ"
    per = 1e6 / len(scans)
    return whole * per, spent * per, cpu * per


@dataclass
class Opened:
    """Counts the segments whose events a plan asks for."""

    world: World
    segments: set[Segment]

    def events(self, path: TimelineHistory, number: int) -> Sequence[Event]:
        timeline = path.timeline_of_segment(number, SIZE)
        self.segments.add(Segment(timeline, number))
        return self.world.events(timeline, number)


def plan(catalog: Catalog, world: World, target: Target) -> tuple[Decision, int]:
    """One plan from scratch; and how many segments it opened."""
    cluster = catalog.clusters()[-1]
    view = view_of(catalog, cluster, 1)
    reader = WalReader(
        repository=cast(Repository, None), system=cluster.system, catalog=catalog, segment_size=SIZE
    )
    opened = Opened(world, set())
    knowledge = replace(reader.knowledge(), events=opened.events)
    return decide(view, target, knowledge), len(opened.segments)


@dataclass
class Costs:
    """What plans cost, one after the other on an opened catalog."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)

    def ask(self, catalog: Catalog, world: World, target: Target) -> None:
        began, spent = time.perf_counter(), time.process_time()
        decision, count = plan(catalog, world, target)
        self.wall.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - spent)
        self.opened.append(count)
        self.verdicts[decision.verdict.value] = self.verdicts.get(decision.verdict.value, 0) + 1

    @property
    def opened_text(self) -> str:
        return f"{sorted(self.opened)[len(self.opened) // 2]} / {max(self.opened)}"


def cold(path: Path, world: World, moments: Sequence[AtTime]) -> list[float]:
    """Seconds of plans on a file that is newly opened and not in the system's cache."""
    spent = []
    for at in moments:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        catalog = Catalog(path)
        plan(catalog, world, at)
        spent.append(time.perf_counter() - began)
        catalog.close()
    return spent


def measure(path: Path, world: World, questions: int) -> str:
    """One line of the table."""
    random = Random(4)
    asked = [BEGAN - 60_000_000 + random.randrange(DAYS * DAY_US + 240_000_000) for _ in range(questions)]
    asked += [BEGAN, BEGAN + DAYS * DAY_US - world.step_us // 3, BEGAN + DAYS * DAY_US + 3_600_000_000]
    moments = [AtTime(CommitTime(at)) for at in asked]
    newly_opened = cold(path, world, [*moments[: max(3, questions // 3)], *moments[-3:]])
    catalog = Catalog(path)
    plan(catalog, world, moments[0])
    times, xids = Costs(), Costs()
    for at in moments:
        times.ask(catalog, world, at)
    for _ in range(max(3, questions // 3)):
        number = FIRST + world.segments // DAYS + random.randrange(world.segments * (DAYS - 1) // DAYS)
        timeline = max(t for t, first, _last in world.spans() if first <= number)
        xids.ask(catalog, world, AtXid(world.events(timeline, number)[0].xid))
    catalog.close()
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(times.verdicts.items()))
    found = ", ".join(f"{count} {verdict}" for verdict, count in sorted(xids.verdicts.items()))
    return (
        f"| {world.segments:,} | {path.stat().st_size / 2**20:,.0f} | {spread(newly_opened)} |"
        f" {spread(times.wall)} | {spread(times.cpu)} | {times.opened_text} | {told} |"
        f" {spread(xids.wall)} | {xids.opened_text} | {found} |"
    )


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{ordered[len(ordered) // 2] * 1e3:.1f} / {p99 * 1e3:.1f}"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--full", action="store_true", help="3 * 10^6 segments too")
    arguments.add_argument("--most", type=int, default=1_000_000, help="largest catalog otherwise")
    arguments.add_argument("--questions", type=int, default=100)
    args = arguments.parse_args()
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= args.most]
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-plan-"))
    try:
        whole, index, cpu = taken_in(folder)
        print(
            f"Taking in a segment and its scan: {whole:.0f} µs; the index alone: {index:.0f} ({cpu:.0f} CPU)."
        )
        heads = ["cold, ms p50 / p99", "warm, ms p50 / p99", "CPU warm, ms", "opened p50 / max", "verdicts"]
        heads += ("xid, ms p50 / p99", "opened p50 / max", "verdicts")
        print(f"\n| segments | MiB | {' | '.join(heads)} |")
        print("|---" * (2 + len(heads)) + "|")
        for size in [*sizes, *([3_000_000] if args.full else [])]:
            path = folder / f"{size}.db"
            build(path, World(size))
            print(measure(path, World(size), args.questions), flush=True)
            path.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
