"""Compares what a database refers to with the versions of its bucket, as of one moment.

Rules:
- References stream: neither they nor the bucket's keys are held in memory. What is held is what somebody must
  act on: up to `LISTED_MAX` findings that do not stand well, and as many that do, but by another version than
  was current; beyond that only their number.
- Of several references to one key, one that means what was current at the moment decides what the key holds.
- Bytes are read where a listing cannot tell and it matters: with `deep` always, else only for keys of which
  more than one version lies within the guard interval, or whose state is in doubt.
- What is not there by the index is listed once more by itself before it is called missing.
- Orphans are counted by walking the state of the moment beside the sorted references.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from restore.bodyproof import BodyProof
from restore.core.jointtext import JointReport
from restore.core.references import (
    SETTLED,
    Finding,
    Guard,
    Reference,
    Standing,
    Tally,
    fit_by_listing,
    in_doubt,
    resolve,
)
from restore.referencekeys import ReferenceKeys
from walarchiver.bucketports import EvidenceBucket, KeyRange, VersionIndex
from walarchiver.core.version import EntryKind, Row, StoreMs
from walarchiver.postgres.references import ReferenceRow

Histories = Mapping[str, tuple[Row, ...]]

LISTED_MAX = 100_000
ORPHANS_LISTED_MAX = 1000
_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared, and how carefully."""

    index: VersionIndex
    bucket: EvidenceBucket
    moment: StoreMs
    guard: Guard
    deep: bool = False
    workers: int = 4
    progress: Callable[[int], None] = lambda _references: None


def references_of(rows: Iterable[ReferenceRow]) -> Iterator[Reference | None]:
    """The references in a query's answer; None for a row without a key."""
    for row in rows:
        if row.key is None:
            yield None
        else:
            yield Reference(row.key, row.version_id, row.sha256, row.etag, row.size)


def compare(asked: Compared, references: Iterable[Reference | None], *, orphans: bool = True) -> JointReport:
    """Look up every reference. Raises what the index, the bucket and the query raise."""
    found = _Found()
    proof = BodyProof(asked.bucket)
    keys = ReferenceKeys()
    lookup = _Lookup(asked, proof)
    try:
        with ThreadPoolExecutor(asked.workers, thread_name_prefix="references") as pool:
            for batch in _batches(references):
                named = [each for each in batch if each is not None]
                found.keyless += len(batch) - len(named)
                known = lookup.known(named)
                findings = list(pool.map(partial(lookup.find, known=known), named))
                keys.add((each.reference.key, each.plain(asked.moment)) for each in findings)
                for finding in findings:
                    found.take(finding, asked.moment)
                asked.progress(found.total)
        held = frozenset(key for each in found.near if keys.any_plain(key := each.reference.key))
        first, count, size = _orphans(asked, keys) if orphans else ((), None, 0)
    finally:
        keys.close()
    return JointReport(
        moment=asked.moment,
        tally=Tally(dict(found.standings), found.unproven, count),
        findings=[*found.wrong, *found.near],
        listed_all=found.unlisted == 0,
        held=held,
        unlisted_near=found.unlisted_near,
        orphans=first,
        orphan_bytes=size,
        keyless=found.keyless,
        read_objects=proof.read_objects,
        read_bytes=proof.read_bytes,
        guard_ms=asked.guard.before_ms,
    )


def _batches(references: Iterable[Reference | None]) -> Iterator[list[Reference | None]]:
    source = iter(references)
    while batch := list(islice(source, _BATCH)):
        yield batch


def list_again(bucket: EvidenceBucket, index: VersionIndex, key: str) -> None:
    """Take over what the server lists of one key now. Raises Store…"""
    keys = KeyRange(key, key)
    asked = bucket.date()
    entries = [entry for page in bucket.list_entries(keys) for entry in page]
    index.ingest(keys, entries, asked=asked)


@dataclass(slots=True)
class _Found:
    standings: Counter[Standing] = field(default_factory=Counter)
    wrong: list[Finding] = field(default_factory=list)
    near: list[Finding] = field(default_factory=list)
    """What stands well by another version than was surely current at the moment."""
    unlisted: int = 0
    unlisted_near: int = 0
    unproven: int = 0
    keyless: int = 0

    @property
    def total(self) -> int:
        return self.standings.total()

    def take(self, finding: Finding, moment: StoreMs) -> None:
        self.standings[finding.standing] += 1
        if finding.row is not None and not finding.proven:
            self.unproven += 1
        if finding.plain(moment):
            return
        kept = self.near if finding.standing in SETTLED else self.wrong
        if len(kept) < LISTED_MAX:
            kept.append(finding)
            return
        self.unlisted += 1
        self.unlisted_near += finding.standing in SETTLED


@dataclass(frozen=True, slots=True)
class _Lookup:
    asked: Compared
    proof: BodyProof

    def known(self, references: Iterable[Reference]) -> Histories:
        """The histories of their keys, asked for together: one by one costs a sorted index a search each."""
        prefix = self.asked.bucket.prefix
        keys = sorted({each.key for each in references if each.key.startswith(prefix)})
        return dict(self.asked.index.histories(keys))

    def find(self, reference: Reference, known: Histories) -> Finding:
        if not reference.key.startswith(self.asked.bucket.prefix):
            why = f"it lies outside of {self.asked.bucket.url}, all that is known here"
            return Finding(reference, Standing.LOST, None, proven=False, reason=why)
        finding = self._resolved(reference, known[reference.key])
        if finding.standing in SETTLED:
            return finding
        list_again(self.asked.bucket, self.asked.index, reference.key)
        return self._resolved(reference, self.asked.index.history(reference.key))

    def _resolved(self, reference: Reference, history: tuple[Row, ...]) -> Finding:
        asked = self.asked
        reads = asked.deep or self._contested(history) or in_doubt(history, asked.moment)
        fits = self.proof.fits if reads else fit_by_listing
        return resolve(reference, history, asked.moment, asked.guard, fits=fits)

    def _contested(self, history: tuple[Row, ...]) -> bool:
        """Whether more than one version was current within the guard interval."""
        low, high = (
            self.asked.moment - self.asked.guard.before_ms,
            self.asked.moment + self.asked.guard.after_ms,
        )
        near = [
            row
            for row in history
            if row.entry.kind is EntryKind.VERSION and row.placed.begin <= high and row.placed.until > low
        ]
        return len(near) > 1


def _orphans(asked: Compared, keys: ReferenceKeys) -> tuple[tuple[str, ...], int, int]:
    """The first keys of the moment that nothing refers to, their number, and their bytes."""
    listed: list[str] = []
    count = size = 0
    wanted = iter(keys)
    want = next(wanted, None)
    for row in asked.index.as_of(asked.moment, prefix=asked.bucket.prefix):
        while want is not None and want < row.entry.key:
            want = next(wanted, None)
        if want == row.entry.key or row.is_gone:
            continue
        count += 1
        size += row.entry.size
        if len(listed) < ORPHANS_LISTED_MAX:
            listed.append(row.entry.key)
    return tuple(listed), count, size
