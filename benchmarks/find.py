"""What `find` costs: its walk against pg_waldump on the same segments, and the whole command on an archive.

Run by `./dev shell python -m benchmarks.find [--major 18] [--segments 40] [--rounds 5]`. An embedded server
archives through `walarchiver serve` into a folder while pgbench's statements run in a loop, then a COPY and a
DELETE of many rows; 16 MiB segments. Of each kind of WAL it prints Markdown: MB/s (median, min-max) of

- `pg_waldump -R`: one process, its output thrown away; what users have today without an archive tool;
- `one thread`: sifting, joining and collecting the same files, in this process: what one core does;
- `plain walk`: the same without the compiled part (one round, few segments);
- `find`: everything, from the archive: fetching, deciphering, unpacking, verifying, walking, answering.

The variants take turns. Every variant's number of records or rows is compared with the others'.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from restore.core.collecting import Asked, Collector
from restore.core.findings import LOSSES
from restore.finding import Question, find
from restore.planning import view_of
from walarchiver.assembly import Host, open_archive
from walarchiver.core import stretch
from walarchiver.core.moment import parse_rfc3339
from walarchiver.core.relfile import RelFile
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.stretch import walk_stretch
from walarchiver.core.touch import Watch
from walarchiver.demo.stage import Stage
from walarchiver.embedded.postgres import EmbeddedCluster
from walarchiver.settings import load_settings

MIB = 1 << 20
SIZE = SegmentBytes(16 * MIB)
PLAIN_SEGMENTS = 3
SETTINGS = {
    "max_wal_size": "16GB",
    "wal_keep_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "synchronous_commit": "off",
}
SCHEMA = """
CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
INSERT INTO accounts SELECT g, 1, 0, '' FROM generate_series(1, 200000) g;
CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
INSERT INTO tellers SELECT g, 1, 0, '' FROM generate_series(1, 20) g;
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
INSERT INTO branches SELECT g, 0, '' FROM generate_series(1, 2) g;
CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
CREATE TABLE quiet (id int PRIMARY KEY, text text);
INSERT INTO quiet SELECT g, 'x' FROM generate_series(1, 1000) g;
CREATE TABLE bulk (id int, text text);
CREATE PROCEDURE busy(n int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..n LOOP
    UPDATE accounts SET abalance = abalance + 1 WHERE aid = i * 7919::bigint % 200000 + 1;
    UPDATE tellers SET tbalance = tbalance + 1 WHERE tid = i % 20 + 1;
    UPDATE branches SET bbalance = bbalance + 1 WHERE bid = i % 2 + 1;
    INSERT INTO history VALUES (i % 20, 1, i, 1, now(), '');
    COMMIT;
  END LOOP;
END $$;
"""
NOW = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


@dataclass(frozen=True)
class Wal:
    """Segments of one kind: first..last, and the times around them."""

    kind: str
    first: int
    last: int
    began: str
    ended: str

    @property
    def megabytes(self) -> float:
        return (self.last - self.first + 1) * SIZE / 1e6


@dataclass(frozen=True)
class Case:
    """A table looked for in one kind of WAL."""

    wal: Wal
    table: str
    file: RelFile


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--major", type=int, default=18)
    arguments.add_argument("--segments", type=int, default=40, help="of the commit-heavy kind")
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-find-"))
    folder.chmod(0o755)
    try:
        measure(folder, args.major, args.segments, args.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(folder: Path, major: int, segments: int, rounds: int) -> None:
    stage = Stage(folder, f"file://{folder}/repository")
    (folder / "repository").mkdir()
    settings = {**SETTINGS, **stage.archive_settings()}
    cluster = EmbeddedCluster(major, folder / "pg", settings=settings, durable=False)
    stage.cluster = cluster
    try:
        cluster.create(segment_bytes=SIZE)
        stage.make_repository()
        stage.install_hook()
        cluster.start()
        stage.serve()
        cluster.psql(SCHEMA)
        stage.run("backup")
        cluster.psql("CHECKPOINT")
        kinds = [
            written(cluster, "pgbench's statements", f"CALL busy({segments * 36000})"),
            written(cluster, "a COPY", copying(segments * 100_000)),
            written(cluster, "a DELETE of all rows", "DELETE FROM bulk"),
        ]
        until_archived(cluster)
        files = {
            name: RelFile.parse("1663/" + cluster.psql(f"SELECT pg_relation_filepath('{name}')")[5:])
            for name in ("quiet", "accounts", "bulk")
        }
        cases = [Case(kinds[0], name, files[name]) for name in ("quiet", "accounts")]
        cases += [Case(wal, name, files[name]) for wal in kinds[1:] for name in ("quiet", "bulk")]
        stage.stop_server()
        for case in cases:
            report(case, variants(stage, cluster, case), rounds)
    finally:
        cluster.kill()
        stage.stop_server(kill=True)


def copying(rows: int) -> str:
    return f"""COPY bulk FROM PROGRAM 'seq -f "%.0f\t{"filler " * 8}" {rows}'"""


def written(cluster: EmbeddedCluster, kind: str, sql: str) -> Wal:
    """The whole segments that a statement fills."""
    first = cluster.psql("SELECT pg_walfile_name(pg_switch_wal() + 1)")
    began = cluster.psql(NOW)
    cluster.psql(sql)
    ended = cluster.psql(NOW)
    last = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())")
    numbers = [Segment.parse(name, SIZE).number for name in (first, last)]
    return Wal(kind, numbers[0] + 1, numbers[1] - 1, began, ended)


def until_archived(cluster: EmbeddedCluster) -> None:
    """Return once everything is archived, and a little more."""
    rest = threading.Event()
    for _turn in range(2):
        cluster.psql("SELECT pg_logical_emit_message(true, 'bench', 'x')")
        name = cluster.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
        while cluster.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")[:24] < name:
            rest.wait(0.2)


def variants(
    stage: Stage, cluster: EmbeddedCluster, case: Case
) -> dict[str, Callable[[], tuple[int, float]]]:
    """Each gives what it counted and the megabytes it read."""
    wal, folder = case.wal, cluster.data_dir / "pg_wal"
    names = {number: Segment(1, number).name(SIZE) for number in range(wal.first, wal.last + 2)}

    words = ["-p", str(folder), "-R", str(case.file), names[wal.first], names[wal.last]]

    def waldump() -> tuple[int, float]:
        with (stage.folder / "dumped").open("wb") as out:
            subprocess.run([cluster.bin_dir / "pg_waldump", *words], stdout=out, check=True)
        text = (stage.folder / "dumped").read_bytes()
        return len(re.findall(rb"rmgr: Heap2? .*desc: (?:\w*INSERT|\w*UPDATE|DELETE)", text)), wal.megabytes

    def waldump_alone() -> tuple[int, float]:
        subprocess.run([cluster.bin_dir / "pg_waldump", *words], stdout=subprocess.DEVNULL, check=True)
        return -1, wal.megabytes

    def walked(last: int) -> tuple[int, float]:
        watch = Watch(frozenset({case.file}), {case.file.database: RelFile(1663, case.file.database, 1259)})
        asked = Asked(watch.files, LOSSES, 0, 2**62, 1000)
        collector = Collector(asked, complete=True)

        def pages(number: int) -> bytes | None:
            if number not in held:
                held.clear()
                held[number] = (folder / names[number]).read_bytes()
            return held[number]

        held: dict[int, bytes] = {}
        for number in range(wal.first, last + 1):
            for found in walk_stretch(number, number, pages, segment_size=SIZE, watch=watch).found:
                collector.add(found)
        return collector.omitted + len(collector.transactions()), (last - wal.first + 1) * SIZE / 1e6

    def plainly() -> tuple[int, float]:
        with mock.patch.object(stretch, "sift_segment", return_value=None):
            return walked(min(wal.first + PLAIN_SEGMENTS - 1, wal.last))

    def found() -> tuple[int, float]:
        archive = open_archive(Host.here(load_settings(reader)), None)
        view = view_of(archive.catalog, archive.cluster, archive.ledger.state().next_seq)
        question = Question(LOSSES, us(wal.began), us(wal.ended), table=case.table)
        began = time.perf_counter()
        answer = find(archive, view, question, dsn=None, workers=2)
        spent.append(time.perf_counter() - began)
        if answer.doubts or answer.gap:
            print(answer.doubts, answer.gap, file=sys.stderr)
        return answer.omitted + len(answer.findings), answer.walked / 1e6

    spent: list[float] = []
    reader = stage.write_reader_config(stage.folder / "reader.toml", state=stage.folder / "reader")
    return {
        "pg_waldump -R": waldump_alone,
        "one thread": lambda: walked(wal.last),
        "plain walk": plainly,
        "find": found,
        "(lines)": waldump,
    }


def us(text: str) -> int:
    return parse_rfc3339(text)


def report(case: Case, measured: dict[str, Callable[[], tuple[int, float]]], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in measured}
    cpu: dict[str, list[float]] = {name: [] for name in measured}
    counts: dict[str, int] = {}
    for turn in range(rounds):
        for name, run in measured.items():
            if turn and name in ("plain walk", "(lines)"):
                continue
            began, before = time.perf_counter(), os.times()
            counts[name], megabytes = run()
            rates[name].append(megabytes / (time.perf_counter() - began))
            after = os.times()
            cpu[name].append(sum(after[:4]) - sum(before[:4]))
            cpu[name][-1] = megabytes / max(cpu[name][-1], 0.001)
    base = statistics.median(rates["pg_waldump -R"])
    lines = counts.pop("(lines)")
    print(
        f"\n## {case.wal.kind}, table {case.table}: {case.wal.megabytes:,.0f} MB, {lines:,} records of it\n"
    )
    print("| variant | MB/s [min-max] | MB per CPU second | x pg_waldump -R | transactions |")
    print("| --- | --- | --- | --- | --- |")
    for name, taken in rates.items():
        if name != "(lines)":
            middle = statistics.median(taken)
            count = f"{counts[name]:,}" if counts[name] >= 0 else ""
            print(
                f"| {name} | {middle:.0f} [{min(taken):.0f}-{max(taken):.0f}] |"
                f" {statistics.median(cpu[name]):.0f} | {middle / base:.2f} | {count} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
