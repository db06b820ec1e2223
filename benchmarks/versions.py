"""What the index of a bucket's versions costs: taking listings over, its size, and every question.

Run by `./dev shell python benchmarks/versions.py [--versions 1000000] [--engine sqlite --engine parquet]`. It
makes up a bucket of 90 days: 1.5 versions a key, 2 % of the entries are delete markers, keys of about 50
characters in 1 400 folders, ids and ETags of 32 hex digits. The listing is taken over in ranges of 20 000
entries, as a sharded scan does; then questions are asked, first with the file's pages dropped from the
system's cache ("cold"), then again ("warm").

- Times are wall clock beside the process's own CPU time, which says more on a machine that is busy.
- Making the entries up is not in the figures.
- Writes Markdown to standard output, and with `--json FILE` the same figures as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from walarchiver.bucketports import KeyRange, Observation, VersionIndex
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.evidence.parquetindex import ParquetIndex
from walarchiver.evidence.sqliteindex import SqliteIndex

DAY_MS = 86_400_000
BEGAN = 1_780_000_000_000
DAYS = 90
_SECONDS = DAYS * 86_400
FOLDERS = 1_400
SHARD = 20_000
REFERENCES = 68_000
EVENTS = 2_000
AGAIN_MAX = 2_000_000


@dataclass(frozen=True)
class Figure:
    what: str
    wall_ms: float
    cpu_ms: float
    result: str = ""


class Bucket:
    """A made-up bucket; everything follows from its size."""

    def __init__(self, versions: int) -> None:
        self.keys = versions * 2 // 3
        self.asked = StoreMs(BEGAN + DAYS * DAY_MS + 1000)

    def key(self, number: int) -> str:
        folder = number * FOLDERS // self.keys
        return f"evidence/case-{folder:06}/{number:010}-{number * 2654435761 % 2**32:08x}.pdf"

    def entries(self, number: int) -> list[Entry]:
        """Newest first."""
        digest = hashlib.sha512(b"%d" % number)
        chance, key = int.from_bytes(digest.digest()[:16], "big"), self.key(number)
        seconds = [chance % _SECONDS] if number % 2 else [chance % _SECONDS, (chance >> 40) % _SECONDS]
        # 2 % of all entries: 3 % of keys, which have 1.5 entries, end in a marker.
        is_deleted = number % 100 < 3
        found = []
        text = digest.hexdigest()
        for turn, second in enumerate(sorted(seconds, reverse=True)):
            at, name = StoreMs(BEGAN + second * 1000), text[turn * 32 : turn * 32 + 32]
            etag = text[turn * 32 + 64 : turn * 32 + 96]
            if turn == 0 and is_deleted:
                found.append(Entry(key, name, EntryKind.MARKER, at, 0, "", "", True))
            else:
                size = 1000 + (chance >> 80) % 5_000_000
                kind = EntryKind.VERSION
                found.append(Entry(key, name, kind, at, size, etag, "STANDARD", turn == 0))
        return found

    def shards(self) -> Iterator[tuple[KeyRange, list[Entry]]]:
        keys = SHARD * 2 // 3
        for first in range(0, self.keys, keys):
            last = min(first + keys, self.keys)
            entries = [entry for number in range(first, last) for entry in self.entries(number)]
            begin = self.key(first) if first else ""
            yield KeyRange(begin, None if last == self.keys else self.key(last - 1)), entries


class Watch:
    """Collects figures."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def measure(self, what: str, act: Callable[[], object]) -> None:
        began, spent = time.perf_counter(), time.process_time()
        result = act()
        self.add(what, time.perf_counter() - began, time.process_time() - spent, str(result))

    def add(self, what: str, wall_s: float, cpu_s: float, result: str = "") -> None:
        self.figures.append(Figure(what, round(wall_s * 1e3, 3), round(cpu_s * 1e3, 3), result))


def count(rows: Iterator[object]) -> int:
    return sum(1 for _ in rows)


def take_over(index: VersionIndex, bucket: Bucket, watch: Watch, what: str) -> None:
    wall = cpu = 0.0
    rows = 0
    for keys, entries in bucket.shards():
        began, spent = time.perf_counter(), time.process_time()
        index.ingest(keys, entries, asked=bucket.asked)
        wall += time.perf_counter() - began
        cpu += time.process_time() - spent
        rows += len(entries)
    watch.add(what, wall, cpu, f"{rows / wall:,.0f} rows/s, {rows / cpu:,.0f} rows/s of CPU")


def questions(index: VersionIndex, bucket: Bucket, watch: Watch, how: str) -> None:
    noon = StoreMs(BEGAN + DAYS * DAY_MS * 2 // 3)
    random = Random(5)
    keys = [bucket.key(random.randrange(bucket.keys)) for _ in range(200)]
    prefix = f"evidence/case-{FOLDERS // 3:06}/"
    hour, day = StoreMs(noon + 3_600_000), StoreMs(noon + DAY_MS)
    began, spent = time.perf_counter(), time.process_time()
    rows = sum(len(index.history(key)) for key in keys)
    per = 1 / len(keys)
    watch.add(
        f"one key, {how}",
        (time.perf_counter() - began) * per,
        (time.process_time() - spent) * per,
        f"{rows} rows of 200 keys",
    )
    watch.measure(f"as-of of a prefix, {how}", lambda: f"{count(index.as_of(noon, prefix=prefix)):,} keys")
    watch.measure(f"totals of everything, {how}", lambda: f"{index.totals(noon).objects:,} objects")
    watch.measure(f"diff of 1 h, {how}", lambda: f"{count(index.diff(noon, hour)):,} keys")
    watch.measure(f"diff of 1 d, {how}", lambda: f"{count(index.diff(noon, day)):,} keys")
    watch.measure(f"uncertain keys of everything, {how}", lambda: f"{count(index.uncertain(noon)):,} keys")


def references(index: VersionIndex, bucket: Bucket, watch: Watch) -> None:
    random = Random(6)
    noon = StoreMs(BEGAN + DAYS * DAY_MS * 2 // 3)
    keys = sorted(bucket.key(random.randrange(bucket.keys)) for _ in range(REFERENCES))

    def verify() -> str:
        present = sum(any(row.was_current(noon) for row in rows) for _, rows in index.histories(keys))
        return f"{present:,} of {REFERENCES:,} there"

    watch.measure("verify 68 000 references", verify)


def events(index: VersionIndex, bucket: Bucket, watch: Watch) -> None:
    """Each key listed again, with a newer version on top."""
    random = Random(7)
    listings = []
    count = EVENTS // 20 if isinstance(index, ParquetIndex) else EVENTS
    for turn in range(count):
        number = random.randrange(bucket.keys)
        old = bucket.entries(number)
        newest = Entry(old[0].key, f"{turn:032x}", EntryKind.VERSION, bucket.asked, 5, "e", "STANDARD", True)
        listings.append([newest, *old])
    asked = StoreMs(bucket.asked + 5000)
    began, spent = time.perf_counter(), time.process_time()
    for listing in listings:
        index.ingest(KeyRange(listing[0].key, listing[0].key), listing, asked=asked)
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    told = f"{count / wall:,.0f}/s, {count / cpu:,.0f}/s of CPU"
    watch.add(f"{count:,} keys listed one by one", wall, cpu, told)


def drop_caches(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(make: Callable[[Path], VersionIndex], versions: int, parent: Path | None) -> list[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="walarchiver-versions-", dir=parent))
    watch, bucket = Watch(), Bucket(versions)
    try:
        index = make(folder)
        take_over(index, bucket, watch, "take everything over")
        if isinstance(index, ParquetIndex):
            watch.measure("merge what is left into the base", merging(index))
        began, spent = time.perf_counter(), time.process_time()
        index.observe(Observation(bucket.asked, "scan", "{}"))
        watch.add("finish the indexes", time.perf_counter() - began, time.process_time() - spent)
        mark_all_shipped(index, watch)
        index.close()
        rows = bucket.keys * 3 // 2
        parts = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
        told = f"{(size_of(folder) - parts) / rows:.0f} bytes a version"
        watch.add("size", 0, 0, f"{told} in SQLite (free pages too), {parts / rows:.0f} in parts")
        drop_caches(folder)
        index = make(folder)
        questions(index, bucket, watch, "cold")
        questions(index, bucket, watch, "warm")
        references(index, bucket, watch)
        if versions <= AGAIN_MAX:
            take_over(index, bucket, watch, "take the same over again")
        events(index, bucket, watch)
        index.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return watch.figures


def mark_all_shipped(index: VersionIndex, watch: Watch) -> None:
    def ship() -> str:
        before, done = index.changes, 0
        while keys := index.unshipped(keys_max=10_000):
            index.mark_shipped(keys, changes_before=before)
            done += len(keys)
        return f"{done:,} keys"

    watch.measure("list what is unshipped, and mark it", ship)


def merging(index: ParquetIndex) -> Callable[[], str]:
    def merge() -> str:
        rows = index.rows_here
        index.merge()
        return f"{rows:,} rows"

    return merge


ENGINES: dict[str, Callable[[Path], VersionIndex]] = {
    "sqlite": lambda folder: SqliteIndex(folder / "index.db"),
    "parquet": lambda folder: ParquetIndex(folder / "index.db"),
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--versions", type=int, default=1_000_000)
    arguments.add_argument("--engine", action="append", choices=ENGINES)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--folder", type=Path, help="where to make the index; default: the system's")
    args = arguments.parse_args()
    found = {}
    for name in args.engine or ENGINES:
        figures = run(ENGINES[name], args.versions, args.folder)
        found[name] = [asdict(figure) for figure in figures]
        print(f"\n{name}, {args.versions:,} versions\n\n| what | wall ms | CPU ms | |\n|---|---|---|---|")
        for one in figures:
            print(f"| {one.what} | {one.wall_ms:,.2f} | {one.cpu_ms:,.2f} | {one.result} |", flush=True)
    if args.json:
        about = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "cores": os.cpu_count(),
        }
        args.json.write_text(json.dumps({"versions": args.versions, "on": about, "engines": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
