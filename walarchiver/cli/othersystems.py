"""Other system identifiers under one cluster's name whose archive holds a moment: before a pg_upgrade.

Rules:
- Looked for only when the chosen system refuses a time; a name, a position or a transaction's id means
  nothing in another server's WAL.
- Told from each ledger alone: whether every second between is there, `plan --system` says. A ledger that
  cannot be read keeps nobody from the answer about the chosen system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from restore.core.model import AtTime, Target
from walarchiver.assembly import Archive, Host, open_archive
from walarchiver.core.coverage import Run
from walarchiver.core.moment import CommitTime
from walarchiver.errors import WalarchiverError
from walarchiver.operate.contents import Contents
from walarchiver.restorable import Spans


@dataclass(frozen=True, slots=True)
class OtherSystem:
    """A system identifier that had the cluster's name too, and whose archive holds these times."""

    system: str
    major: int
    earliest: CommitTime
    latest: CommitTime


def other_systems(host: Host, archive: Archive, target: Target) -> tuple[OtherSystem, ...]:
    """Those that hold a moment."""
    if not isinstance(target, AtTime):
        return ()
    found: list[OtherSystem] = []
    for system in archive.repository.systems():
        if system != archive.system:
            with contextlib.suppress(WalarchiverError):
                found += _covering(open_archive(host, archive.cluster.name, system=system), archive, target)
    return tuple(found)


def _covering(other: Archive, archive: Archive, target: AtTime) -> Iterator[OtherSystem]:
    """The other system, when the moment lies between its first base backup and the last known of it."""
    spans = Spans(other).all()
    if other.cluster.name != archive.cluster.name or not spans:
        return
    known = [span.from_us if span.to_us is None else span.to_us for span in spans]
    told = Contents(other.catalog, int(other.system), other.segment_size)
    ended = [told.told(Run(*run)).last_us for run in other.catalog.runs()]
    earliest = min(span.from_us for span in spans)
    latest = CommitTime(max([*known, *(one for one in ended if one is not None)]))
    if earliest <= target.time <= latest:
        yield OtherSystem(other.system, other.cluster.major, earliest, latest)
