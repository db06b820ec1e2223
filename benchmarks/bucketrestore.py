"""How long the plan and the restore of a large bucket take besides the store's own time, and how much memory.

    python -m benchmarks.bucketrestore [KEYS] [CHANGED]

The store answers from memory at once, so what is measured is ours: the index's answers, decisions, the plan
file, the journal (synced to disk), and the verification. Requests to a real store come on top.
"""

# ruff: noqa: ARG002  the stand-in takes what the port gives

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from restore.bucketjournal import Journal, NoSink
from restore.bucketplan import Ground, make_plan
from restore.bucketrestore import BucketRestore
from restore.core.bucketactions import Options
from restore.core.bucketlines import PlanHeader
from walarchiver.bucketports import EvidenceBucket, KeyRange, Observation, VersionDetail, Versioning, Written
from walarchiver.clock import SystemClock
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.evidence.openindex import open_index

BEFORE, MOMENT, AFTER, NOW = (StoreMs(1_700_000_000_000 + step * 3_600_000) for step in range(4))


def entries(keys: int, every: int) -> Iterator[Entry]:
    """In listing order; each `every`-th key was overwritten after the moment."""
    for number in range(keys):
        key = f"case/{number // 100:06}/{number:09}.jpg"
        if number % every == 0:
            yield Entry(key, f"n{number:031}", EntryKind.VERSION, AFTER, 2, "b" * 32, "STANDARD", True)
        yield Entry(
            key, f"o{number:031}", EntryKind.VERSION, BEFORE, 1, "a" * 32, "STANDARD", number % every != 0
        )


class Memory:
    """Answers as a store would; keeps only what was written."""

    url = "s3://memory"
    name = "memory"
    prefix = ""

    def __init__(self) -> None:
        self._written: dict[str, str] = {}

    def versioning(self) -> Versioning:
        return Versioning.ENABLED

    def date(self) -> StoreMs:
        return NOW

    def detail(self, key: str, version_id: str) -> VersionDetail:
        etag, size = ("b" * 32, 2) if version_id.startswith("n") else ("a" * 32, 1)
        return VersionDetail(size, etag, BEFORE, "STANDARD", True, "AES256", "")

    def copy(self, source: Any, key: str, version_id: str, *, to: str, size: int, expected: Any) -> Written:
        self._written[to] = f"w{len(self._written):031}"
        return Written(self._written[to], "a" * 32)

    def list_entries(self, keys: KeyRange, *, page_entries: int = 1000) -> Iterator[tuple[Entry, ...]]:
        key = keys.first
        number = int(key.rsplit("/", 1)[1].removesuffix(".jpg"))
        yield (
            Entry(key, self._written[key], EntryKind.VERSION, NOW, 1, "a" * 32, "STANDARD", True),
            Entry(key, f"n{number:031}", EntryKind.VERSION, AFTER, 2, "b" * 32, "STANDARD", False),
        )


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    changed = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    clock = SystemClock()

    def told(what: str, since_s: float, count: int) -> None:
        took = clock.monotonic_s() - since_s
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{what}: {took:.1f} s, {count / took:,.0f} keys/s, peak {rss} MiB")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = open_index(folder / "index.sqlite")
        began = clock.monotonic_s()
        index.ingest(KeyRange(), entries(keys, keys // changed), asked=NOW)
        index.observe(Observation(NOW, "scan", f'{{"entries":0,"keys":{keys},"prefix":""}}'))
        told("index", began, keys)
        bucket = cast(EvidenceBucket, Memory())
        ground = Ground(states=index, origins=index, targets=index, source=bucket, target=bucket)
        header = PlanHeader(
            id="bench",
            states=bucket.url,
            source=bucket.url,
            target=bucket.url,
            to_prefix="",
            prefix="",
            moment=MOMENT,
            requested="",
            options=Options(),
            made_at=0,
            scanned=NOW,
            verdict="complete",
        )
        began = clock.monotonic_s()
        plan = make_plan(ground, header, folder / "plan.jsonl")
        told("plan", began, plan.end.actions)
        print(f"  {plan.path.stat().st_size / plan.end.actions:.0f} bytes an action")
        journal = Journal(
            folder / "journal.jsonl",
            name="bench",
            plan_sha256=plan.end.sha256,
            actions=plan.end.actions,
            sink=NoSink(),
        )
        began = clock.monotonic_s()
        report = BucketRestore(plan, journal, source=bucket, target=bucket).carry_out()
        told("restore and verification", began, plan.end.actions)
        assert report.verified == plan.end.actions
        assert not report.faults
        journal.close()
        index.close()


if __name__ == "__main__":
    main()
