"""Horizon: the newest moment of which it is proven that everything up to it is archived.

Rules:
- A claim says: every event with a time up to `time` starts before `lsn`. It counts once the walk
  covers `lsn`. Sources: samples of (server clock, insert position), the last event, checkpoints.
- A commit's time is taken before its record is inserted, so a sample proves only what lies a
  margin before it (SAMPLE_MARGIN_US). Event times are taken as they are: the last event's own
  moment must be restorable.
- A claim that the WAL itself contradicts (a later event with an earlier time, beyond the margin)
  comes from a clock that was stepped back; it is dropped.
- A sample of a parent timeline counts up to the point where the path leaves it.

Not every sample is looked at. Behind the last event nothing contradicts any, so there the newest
counts. Before it, the last event contradicts every claim that is newer by more than the margin, and
a claim older than the last event's says nothing more: only those of one margin's time are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from restore.core import search
from restore.core.scanindex import Horizon
from restore.core.walk import Branch, Walk
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.walpage import LONG_HEADER_BYTES, settled_lsn

SAMPLE_MARGIN_US = 1_000_000
"""How long before its insertion a commit's time may have been taken: generous, tens of
milliseconds having been the most seen under load."""


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    time: CommitTime
    lsn: Lsn


def horizon(branch: Branch, walk: Walk) -> CommitTime | None:
    """The newest proven moment of a walk; None when nothing is proven."""
    last = search.last_event(branch, walk)
    found: list[CommitTime] = []
    if last is None:
        found += [claim.time for claim in _newest(branch, walk, None)]
    else:
        found += [last.time, *(claim.time for claim in _newest(branch, walk, last.lsn))]
        inside = sorted(_within_margin(branch, walk, last.time), reverse=True)
        found += [claim.time for claim in inside if _stands(branch, walk, claim)][:1]
    checkpoint = search.newest_checkpoint(branch, walk)
    if checkpoint is not None and _stands(branch, walk, _Claim(*checkpoint)):
        found.append(checkpoint[0])
    return max(found, default=None)


def _stands(branch: Branch, walk: Walk, claim: _Claim) -> bool:
    """Whether the WAL does not contradict a claim."""
    later = search.oldest_time_from(branch, walk, claim.lsn)
    return later is None or later >= claim.time - SAMPLE_MARGIN_US


def _newest(branch: Branch, walk: Walk, last: Lsn | None) -> Iterator[_Claim]:
    """The newest sample's claim of each timeline behind the position of the last event."""
    for timeline in branch.path.path:
        end = branch.path.end(timeline)
        until = walk.end if end is None else min(walk.end, end)
        if last is None:
            samples = branch.samples.up_to(timeline, Lsn(until + LONG_HEADER_BYTES))
        elif last < until:
            low, high = Lsn(last + 1), Lsn(until + LONG_HEADER_BYTES)
            samples = branch.samples.by_position(timeline, low, high)
        else:
            continue
        claims = _claims(branch, walk, samples)
        newest = next((claim for claim in claims if last is None or claim.lsn > last), None)
        if newest is not None:
            yield newest


def _within_margin(branch: Branch, walk: Walk, time: CommitTime) -> Iterator[_Claim]:
    """The claims of samples that are newer than `time`, by up to the margin."""
    low, high = CommitTime(time + SAMPLE_MARGIN_US + 1), CommitTime(time + 2 * SAMPLE_MARGIN_US)
    for timeline in branch.path.path:
        yield from _claims(branch, walk, branch.samples.by_time(timeline, low, high))


def _claims(branch: Branch, walk: Walk, samples: Iterable[Horizon]) -> Iterator[_Claim]:
    """What samples claim, of those that are on the path and covered by the walk."""
    for sample in samples:
        lsn = settled_lsn(sample.lsn, branch.size)
        end = branch.path.end(sample.timeline)
        if lsn <= walk.end and (end is None or lsn <= end):
            yield _Claim(CommitTime(sample.time - SAMPLE_MARGIN_US), lsn)
