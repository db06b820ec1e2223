"""Carries out the plan of a bucket restore, key by key, and looks at what became of it.

Rules:
- Every write is conditional on what was seen to be current. If somebody was faster, the key is listed and
  decided anew, a few times; it is never forced. What was replaced stays below, and its id is in the journal.
- Nothing is written while versioning is not enabled: asked before each batch, and again when the answer of a
  write names no version (SeaweedFS keeps none of keys that end in `/`).
- A batch is at most `BATCH` keys, worked on by a bounded number of threads. The journal is durable before the
  next batch begins; delete markers are in it before they are removed.
- A plan that was begun before is gone on with: lines without a final result are looked at afresh first, so
  what a crash kept from the journal is not written twice. Where only the bytes can tell, they are compared.
- What concerns one key is that key's result; a store that does not answer, or denies, ends the run.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from restore.bucketjournal import FINAL, Intent, Journal, Outcome, Result
from restore.bucketplan import BucketPlan, examined
from restore.core.bucketactions import WRITES, Action, Kind, Options, decide, wants_examination
from restore.core.bucketagain import Fault, cannot_tell, case_again, fault_of, overrides
from restore.core.buckettext import loss_text
from restore.inparallel import answered
from walarchiver.bucketports import EvidenceBucket, KeyRange, Versioning, Written
from walarchiver.core.version import NULL_VERSION, Entry
from walarchiver.errors import (
    BucketChanged,
    BucketNotVersioned,
    ObjectDamaged,
    VersionUnreadable,
    WalarchiverError,
)

BATCH = 500
REPLANS_MAX = 4
LEFT = frozenset({Kind.EXTRA, Kind.THAW, Kind.NEEDS_KEY, Kind.LOST, Kind.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Pace:
    """How far it is."""

    done: int
    total: int
    bytes_done: int
    bytes_total: int


@dataclass(slots=True)
class Report:
    """What became of a plan; filled while it is carried out."""

    outcomes: dict[Outcome, int] = field(default_factory=dict)
    bytes_copied: int = 0
    replanned: list[Result] = field(default_factory=list)
    replanned_found: int = 0
    unsettled: list[Result] = field(default_factory=list)
    """Left, contended, failed: at most LISTED_MAX of them; `outcomes` counts all."""
    left: dict[Kind, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    """What the verification found, at most LISTED_MAX."""
    faults_found: int = 0
    by_others: int = 0
    """Of the faults, those where what was written is there, and somebody else wrote, too."""
    verified: int = 0

    def add(self, result: Result) -> None:
        self.outcomes[result.outcome] = self.outcomes.get(result.outcome, 0) + 1
        if result.outcome is Outcome.DONE:
            self.bytes_copied += result.size
        elif result.outcome not in FINAL:
            self.left[result.kind] = self.left.get(result.kind, 0) + 1
            if len(self.unsettled) < LISTED_MAX and result.kind is not Kind.EXTRA:
                self.unsettled.append(result)
        if result.replanned:
            self.replanned_found += 1
            if len(self.replanned) < LISTED_MAX:
                self.replanned.append(result)

    def count(self, *outcomes: Outcome) -> int:
        return sum(self.outcomes.get(outcome, 0) for outcome in outcomes)


LISTED_MAX = 1000


class BucketRestore:
    """Carries out one plan."""

    def __init__(
        self,
        plan: BucketPlan,
        journal: Journal,
        *,
        source: EvidenceBucket,
        target: EvidenceBucket,
        threads: int = 8,
        thaw_days: int | None = None,
        progress: Callable[[Pace], None] = lambda _pace: None,
    ) -> None:
        """`thaw_days`: ask for readable copies of archived versions, for so many days; None: do not ask."""
        self._plan, self._journal = plan, journal
        self._source, self._target = source, target
        self._options: Options = plan.header.options
        self._threads, self._thaw_days, self._progress = threads, thaw_days, progress
        self._looks_first = journal.resumed
        self._ended = threading.Event()

    def carry_out(self) -> Report:
        """Do everything that the plan says and the journal does not; then verify what this run wrote.

        Raises BucketNotVersioned, Store…, OSError; what was done until then is in the journal.
        """
        report = Report()
        sums = self._plan.tally()
        bytes_total = sums.bytes(Kind.COPY, Kind.COPY_IN_PARTS)
        done = bytes_done = 0
        for batch in _batches(self._plan.actions(), BATCH):
            pending = []
            for line, action in batch:
                if self._journal.is_final(line):
                    done, bytes_done = done + 1, bytes_done + action.size
                else:
                    pending.append((line, action))
            self._check_versioning(pending)
            self._announce(pending)
            for result, action in self._batch(pending):
                report.add(result)
                done, bytes_done = done + 1, bytes_done + action.size
                self._progress(Pace(done, self._plan.end.actions, bytes_done, bytes_total))
            self._journal.flush()
        self._verify(report)
        return report

    # --- a batch

    def _check_versioning(self, pending: Sequence[tuple[int, Action]]) -> None:
        writing = any(action.kind in WRITES or action.kind is Kind.THAW for _, action in pending)
        if writing and self._target.versioning() is not Versioning.ENABLED:
            raise BucketNotVersioned(f"versioning of {self._target.url} is not enabled any more: stopped")

    def _announce(self, pending: Iterable[tuple[int, Action]]) -> None:
        self._journal.intend(
            Intent(line=line, to=action.to, markers=action.markers)
            for line, action in pending
            if action.kind is Kind.REMOVE_MARKERS
        )

    def _batch(self, pending: Sequence[tuple[int, Action]]) -> Iterator[tuple[Result, Action]]:
        """Every result in turn; the first error that ends the run comes last."""
        stopped: WalarchiverError | None = None
        with ThreadPoolExecutor(self._threads, thread_name_prefix="bucket-restore") as pool:
            futures = [(pool.submit(self._perform, line, action), action) for line, action in pending]
            try:
                for future, action in futures:
                    try:
                        result = future.result()
                    except WalarchiverError as error:
                        stopped = stopped or error
                        continue
                    if result is not None:
                        self._journal.note(result)
                        yield result, action
            finally:
                for future, _ in futures:
                    future.cancel()
        if stopped is not None:
            self._journal.flush()
            raise stopped

    # --- a key (in a thread)

    def _perform(self, line: int, action: Action) -> Result | None:
        """None: the run was ended before this key's turn."""
        if self._ended.is_set():
            return None
        try:
            try:
                return self._settle(line, action)
            except VersionUnreadable as error:
                again = self._again(action)
                outcome = Outcome.FAILED if again.kind in WRITES else Outcome.LEFT
                return _result(line, again, outcome, f"{again.why}: {error.message}")
            except ObjectDamaged as error:
                return _result(line, action, Outcome.FAILED, error.message)
        except WalarchiverError:
            self._ended.set()
            raise

    def _settle(self, line: int, action: Action) -> Result:
        chosen = action
        looking = self._looks_first and action.kind in WRITES
        if looking or action.kind in (Kind.REMOVE_MARKERS, Kind.THAW):
            chosen = self._again(action)
        unmoved, refusal = 0, ""
        for _ in range(REPLANS_MAX):
            if chosen.kind is Kind.NOTHING:
                holds = chosen.seen.version_id if chosen.seen is not None else ""
                return replace(_result(line, chosen, Outcome.UNCHANGED, chosen.why), version_id=holds)
            if chosen.kind is Kind.THAW and self._thaw_days is not None:
                return self._thaw(line, chosen, self._thaw_days)
            if chosen.kind not in WRITES:
                why = chosen.why if chosen.loss is None else loss_text(chosen.loss)
                return _result(line, chosen, Outcome.LEFT, why)
            try:
                return replace(self._write(line, chosen), replanned=overrides(action, chosen))
            except BucketChanged as error:
                before, chosen = chosen, self._again(action)
                if (chosen.kind, chosen.seen) == (before.kind, before.seen):
                    unmoved += 1
                    refusal = error.message
        if unmoved == REPLANS_MAX:
            why = f"the store refuses it although its listing shows no change: {refusal}"
            return _result(line, action, Outcome.FAILED, why)
        why = f"somebody wrote to it {REPLANS_MAX} times while it was restored; left as it is"
        return _result(line, action, Outcome.CONTENDED, why)

    def _write(self, line: int, action: Action) -> Result:
        replaced = action.seen.version_id if action.seen is not None else ""
        done = replace(_result(line, action, Outcome.DONE, action.why), replaced=replaced)
        if action.kind is Kind.REMOVE_MARKERS:
            assert action.source is not None, "markers are removed from above a wanted version"
            self._journal.intend([Intent(line=line, to=action.to, markers=action.markers)])
            for marker in action.markers:
                self._target.remove_marker(action.to, marker.version_id)
            return replace(done, version_id=action.source.version_id, etag=action.source.etag)
        if action.kind is Kind.MARK_DELETED:
            return self._written(done, self._target.mark_deleted(action.to, expected=action.expected))
        source = action.source
        assert source is not None, "a copy has a source"
        written = self._target.copy(
            self._source,
            action.key,
            source.version_id,
            to=action.to,
            size=source.size,
            expected=action.expected,
        )
        copied = replace(done, source=source.version_id, source_etag=source.etag, size=source.size)
        return self._written(copied, written)

    def _written(self, result: Result, written: Written) -> Result:
        unnamed = written.version_id in ("", NULL_VERSION)
        if unnamed and self._target.versioning() is not Versioning.ENABLED:
            raise BucketNotVersioned(
                f"{result.to}: the store answered a write without a version id; versioning of "
                f"{self._target.url} is not enabled any more: stopped"
            )
        return replace(result, version_id=written.version_id, etag=written.etag)

    def _thaw(self, line: int, action: Action, days: int) -> Result:
        assert action.source is not None, "what is brought back has a version"
        self._source.request_thaw(action.key, action.source.version_id, days=days)
        return _result(
            line, action, Outcome.THAW_REQUESTED, f"asked for a readable copy for {days} days; it takes hours"
        )

    # --- looking again

    def _again(self, action: Action) -> Action:
        """What is to be done with the key as it is now."""
        listed = list_key(self._target, action.to)
        in_place = self._plan.header.in_place
        case = case_again(action, listed, in_place=in_place, same_bucket=self._plan.header.reads_own_bucket)
        chosen = decide(case, self._options)
        if not wants_examination(case, chosen):
            return chosen
        case = examined(case, self._source, self._target)
        chosen = decide(case, self._options)
        if chosen.kind not in WRITES or not self._looks_first or action.seen == chosen.seen:
            return chosen
        current = case.holding.current
        if current is None or case.origin is None or not cannot_tell(case.origin_detail, case.current_detail):
            return chosen
        mine = _digest(self._source.read(case.origin.entry.key, case.origin.entry.version_id))
        if mine == _digest(self._target.read(current.key, current.version_id)):
            return replace(chosen, kind=Kind.NOTHING, why="what is current has the same bytes, read again")
        return chosen

    # --- afterwards

    def _verify(self, report: Report) -> None:
        """List again every key that any run of this plan wrote, and compare."""

        def look(result: Result) -> Fault | None:
            listed = list_key(self._target, result.to)
            return fault_of(
                result.to,
                result.kind,
                result.version_id,
                size=result.size,
                replaced=result.replaced,
                listed=listed,
            )

        written = (result for result in self._journal.results() if result.outcome is Outcome.DONE)
        for fault in answered(look, written, threads=self._threads):
            report.verified += 1
            if fault is not None:
                report.faults_found += 1
                report.by_others += fault.theirs
                if len(report.faults) < LISTED_MAX:
                    report.faults.append(fault)


def list_key(bucket: EvidenceBucket, key: str) -> list[Entry]:
    """Every entry of one key, newest first as the server lists it."""
    return [entry for page in bucket.list_entries(KeyRange(key, key)) for entry in page if entry.key == key]


def _digest(pieces: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def _result(line: int, action: Action, outcome: Outcome, why: str) -> Result:
    return Result(line=line, to=action.to, kind=action.kind, outcome=outcome, why=why)


def _batches(items: Iterator[tuple[int, Action]], size: int) -> Iterator[list[tuple[int, Action]]]:
    while batch := list(islice(items, size)):
        yield batch
