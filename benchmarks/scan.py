"""What scanning one WAL segment costs: plain, compiled, and pg_waldump, on the same bytes.

Run by `./dev shell python benchmarks/scan.py [--major 18] [--rounds 5]`. It makes two kinds of 16 MiB
segments with an embedded server (commits as fast as one procedure can write them; a COPY), scans each
kind with every variant in turn, `--rounds` times, and prints Markdown: milliseconds per segment (median,
min-max) and the ratio to `pg_waldump -r Transaction`. Every variant's count of commits is compared.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from walarchiver.core import commits
from walarchiver.core.commits import scan_segment
from walarchiver.core.segment import Segment, SegmentBytes, SegmentFile, parse_wal_file
from walarchiver.core.skim import COMPILED
from walarchiver.core.walreader import CrcPolicy
from walarchiver.embedded.postgres import EmbeddedCluster

MIB = 1 << 20
SIZE = SegmentBytes(16 * MIB)
MEASURED_SEGMENTS = 3
SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, balance int, filler char(84));
INSERT INTO accounts SELECT g, 0, '' FROM generate_series(1, 100000) g;
CREATE TABLE history (id int, delta int, at timestamptz, filler char(22));
CREATE PROCEDURE busy(n int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..n LOOP
    UPDATE accounts SET balance = balance + 1 WHERE id = i % 100000 + 1;
    INSERT INTO history VALUES (i, 1, now());
    COMMIT;
  END LOOP;
END $$;
CREATE TABLE bulk (id int, text text);
"""
Scan = Callable[[Segment, Path], int]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--major", type=int, default=18)
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-scan-"))
    folder.chmod(0o755)
    try:
        measure(folder, args.major, args.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(folder: Path, major: int, rounds: int) -> None:
    settings = {
        "max_wal_size": "16GB",
        "wal_keep_size": "8GB",
        "checkpoint_timeout": "1h",
        "autovacuum": "off",
    }
    cluster = EmbeddedCluster(major, folder / "pg", settings=settings, durable=False)
    cluster.create(segment_bytes=SIZE)
    cluster.start()
    try:
        cluster.psql(SCHEMA)
        cluster.psql("CHECKPOINT")
        kinds = {
            "commit-heavy": written_by(cluster, "CALL busy(250000)"),
            "bulk": written_by(
                cluster,
                "INSERT INTO bulk SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, 400000) g",
            ),
        }
    finally:
        cluster.kill()
    wal = cluster.data_dir / "pg_wal"
    for kind, names in kinds.items():
        report(kind, wal, names[:MEASURED_SEGMENTS], variants(cluster), rounds)


def written_by(cluster: EmbeddedCluster, sql: str) -> list[str]:
    """The names of the whole segments that a statement fills."""
    first = cluster.psql("SELECT pg_walfile_name(pg_switch_wal() + 1)")
    cluster.psql(sql)
    last = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())")
    names = sorted(path.name for path in (cluster.data_dir / "pg_wal").iterdir() if len(path.name) == 24)
    return [name for name in names if first < name < last][1:]


def variants(cluster: EmbeddedCluster) -> dict[str, Scan]:
    def ours(crc: CrcPolicy, *, compiled: bool) -> Scan:
        def scan(segment: Segment, path: Path) -> int:
            pages = path.read_bytes()
            if compiled:
                return scan_segment(
                    segment, {segment.number: pages}.get, segment_size=SIZE, crc=crc, keep_events=False
                )[0].commits
            with mock.patch.object(commits, "skim", return_value=None):
                return scan_segment(
                    segment, {segment.number: pages}.get, segment_size=SIZE, crc=crc, keep_events=False
                )[0].commits

        return scan

    def waldump(*words: str) -> Scan:
        def scan(_segment: Segment, path: Path) -> int:
            done = subprocess.run(
                [cluster.bin_dir / "pg_waldump", *words, path], capture_output=True, text=True, check=False
            )
            return done.stdout.count("desc: COMMIT")

        return scan

    found = {"pg_waldump -r Transaction": waldump("-r", "Transaction"), "pg_waldump": waldump()}
    if COMPILED:
        found["compiled, every CRC"] = ours(CrcPolicy.ALL, compiled=True)
        found["compiled, CRC of events"] = ours(CrcPolicy.INTERESTING, compiled=True)
        found["compiled, no CRC"] = ours(CrcPolicy.NONE, compiled=True)
    found["plain, CRC of events"] = ours(CrcPolicy.INTERESTING, compiled=False)
    found["plain, no CRC"] = ours(CrcPolicy.NONE, compiled=False)
    found["reading the file alone"] = lambda _segment, path: len(path.read_bytes()) * 0
    return found


def report(kind: str, wal: Path, names: list[str], scans: dict[str, Scan], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in scans}
    counts: dict[str, int] = {}
    for _ in range(rounds):
        for variant, scan in scans.items():
            began = time.perf_counter()
            count = 0
            for name in names:
                parsed = parse_wal_file(name, SIZE)
                assert isinstance(parsed, SegmentFile)
                count += scan(parsed.segment, wal / name)
            times[variant].append((time.perf_counter() - began) * 1000 / len(names))
            counts[variant] = count
    true = counts["pg_waldump"]
    base = statistics.median(times["pg_waldump -r Transaction"])
    print(f"\n## {kind}: {len(names)} segments, {true / len(names):.0f} commits each\n")
    print("| variant | ms a segment [min-max] | x pg_waldump -r Transaction |\n| --- | --- | --- |")
    for variant, took in times.items():
        middle = statistics.median(took)
        # A commit that runs over the segment's end is counted only where the next file is at hand.
        agrees = "" if abs(counts[variant] - true) <= len(names) or "alone" in variant else " (WRONG COUNT)"
        print(f"| {variant}{agrees} | {middle:.1f} [{min(took):.1f}-{max(took):.1f}] | {base / middle:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
