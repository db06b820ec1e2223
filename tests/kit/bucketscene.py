"""An application's bucket, our adapter and index on it, and the steps of a restore, for tests.

Rules: `scan` lists everything into the index, as the product does; `plan` and `carry_out` are the product's.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from restore.bucketcopies import copies_made
from restore.bucketjournal import Journal, JournalSink, NoSink
from restore.bucketplan import BucketPlan, Ground, make_plan
from restore.bucketrestore import BucketRestore, Report
from restore.core.bucketactions import Action, Options
from restore.core.bucketlines import PlanHeader
from restore.core.bucketstate import Want
from walarchiver.bucketports import EvidenceBucket, VersionIndex
from walarchiver.core.version import StoreMs
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Scan, Scanned, ScanOptions


class KeptPieces:
    """A sink that keeps what it was given."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}

    def put(self, journal: str, number: int, lines: bytes) -> None:
        assert self.pieces.setdefault(number, lines) == lines, "a piece that was sent already is the same"


@dataclass
class Side:
    """A bucket and what is known of it."""

    bucket: EvidenceBucket
    index: VersionIndex
    scanned: Scanned | None = None

    def scan(self, prefix: str | None = None) -> Scanned:
        self.scanned = Scan(self.bucket, self.index, ScanOptions()).run(prefix)
        return self.scanned


@dataclass
class BucketScene:
    """Restores of one bucket: in place, into `target`, or from `second`."""

    own: Side
    folder: Path
    opened: ExitStack
    target: Side | None = None
    second: Side | None = None
    sink: JournalSink = field(default_factory=NoSink)
    count: int = 0

    def side(self, bucket: EvidenceBucket, name: str) -> Side:
        """Another bucket with an index of its own, closed with the test."""
        index = open_index(self.folder / f"{name}.sqlite")
        self.opened.callback(index.close)
        return Side(bucket, index)

    def plan(
        self, moment: int, *, to_prefix: str = "", wants: Iterable[Want] | None = None, **options: object
    ) -> BucketPlan:
        """List every bucket concerned, and make a plan."""
        source, target = self.second or self.own, self.target or self.own
        for side, prefix in ((self.own, None), (source, None), (target, to_prefix or None)):
            if side is self.own or side.scanned is None or side is target:
                side.scan(prefix)
        assert self.own.scanned is not None
        self.count += 1
        ground = Ground(
            states=self.own.index,
            origins=source.index,
            targets=target.index,
            source=source.bucket,
            target=target.bucket,
            copied_before=copies_made(
                self.folder, target.bucket.url, plan="plan.jsonl", journal="journal.jsonl"
            ),
        )
        header = PlanHeader(
            id=f"plan-{self.count}",
            states=self.own.bucket.url,
            source=source.bucket.url,
            target=target.bucket.url,
            to_prefix=to_prefix,
            prefix=self.own.bucket.prefix,
            moment=StoreMs(moment),
            requested="a moment of the test",
            options=Options(**options),  # type: ignore[arg-type]
            made_at=0,
            scanned=self.own.scanned.asked,
            verdict="complete",
        )
        folder = self.folder / header.id
        folder.mkdir()
        return make_plan(ground, header, folder / "plan.jsonl", wants=wants)

    def carry_out(self, plan: BucketPlan, *, thaw_days: int | None = None, threads: int = 4) -> Report:
        """One run; with the journal of earlier ones, if there are any."""
        journal = self.journal(plan)
        try:
            return BucketRestore(
                plan,
                journal,
                source=(self.second or self.own).bucket,
                target=(self.target or self.own).bucket,
                threads=threads,
                thaw_days=thaw_days,
            ).carry_out()
        finally:
            journal.close()

    def journal(self, plan: BucketPlan) -> Journal:
        return Journal(
            plan.path.with_name("journal.jsonl"),
            name=plan.header.id,
            plan_sha256=plan.end.sha256,
            actions=plan.end.actions,
            sink=self.sink,
        )


def actions_in(plan: BucketPlan) -> dict[str, Action]:
    """By key."""
    return {action.key: action for _, action in plan.actions()}
