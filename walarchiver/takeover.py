"""Takeover: brings in what PostgreSQL never offers of a timeline that began while archiving was off.

A cluster that is restored in place recovers with archiving off. When it is switched on later,
PostgreSQL offers neither the new timeline's history file nor the segments filled until then; the
next recovery would take the timeline's number for a free one, and use it twice.

Rules (docs/format.md, "Restored in place"):
- Every unrecorded `.history` of the current timeline's ancestry that lies in pg_wal is archived.
- Once archiving is on: what is missing between the fork and now is archived where it still lies
  complete in pg_wal, and left to PostgreSQL where it has marked it `.ready`. The rest is gone; a
  `gap` record says so, and only a new base backup makes later moments restorable.
- An archive that holds nothing of the ancestors has no gap: it simply begins later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from walarchiver.archiver import Archiver
from walarchiver.catalog import Catalog
from walarchiver.core.coverage import Run, Runs, lacking
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import MalformedObject
from walarchiver.format.records import GapRecord, Record
from walarchiver.ledger import Proposal
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.log import get_log
from walarchiver.postgres.probe import WrittenPosition

log = get_log("takeover")

Found = TypeVar("Found")


class Takeover:
    """Watches over the timelines of one cluster in one repository."""

    def __init__(
        self, *, archiver: Archiver, queue: LedgerQueue, data_directory: Path, executor: Executor
    ) -> None:
        self._archiver = archiver
        self._queue = queue
        self.data_directory = data_directory
        self._pg_wal = data_directory / "pg_wal"
        self._executor = executor

    @property
    def _size(self) -> SegmentBytes:
        return self._archiver.cluster.segment_size

    async def archive_histories(self, timeline: int) -> None:
        """Archive the unrecorded history files of `timeline` and its ancestors.

        Raises SegmentConflict when a timeline's number is used by another history already, Store….
        """
        for name in await self._wait(self._unrecorded, timeline):
            await self._archiver.archive(name, self._pg_wal / name)
            log.warning("history was not offered by PostgreSQL; archived", file=name)

    async def close_gap(self, position: WrittenPosition) -> None:
        """Archive what is left of the current timeline's beginning; record what is gone.

        Raises what archiving and recording raise.
        """
        missing = await self._wait(self._missing, position)
        gone: list[int] = []
        for segment in missing:
            path = self._pg_wal / segment.name(self._size)
            status = self._pg_wal / "archive_status" / f"{path.name}.ready"
            if await self._wait(status.exists):
                continue
            if await self._wait(path.exists):
                await self._archiver.archive(path.name, path)
                log.warning("segment was not offered by PostgreSQL; archived", file=path.name)
            else:
                gone.append(segment.number)
        for run in _runs(position.timeline, gone):
            await self._record(run)

    async def _record(self, run: Run) -> None:
        first, last = (Segment(run.timeline, number).name(self._size) for number in (run.first, run.last))
        gap = GapRecord(first, last, f"archiving was off when timeline {run.timeline} began")

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            return () if gap in catalog.gaps() else (gap,)

        await self._queue.submit(Proposal(f"gap {first}", decide))
        log.error("gap: take a base backup", first=first, last=last, cause=gap.cause)

    def _unrecorded(self, timeline: int) -> list[str]:
        history = self._history(timeline)
        names = [f"{each:08X}.history" for each in history.path[1:]] if history else []
        catalog = self._archiver.catalog
        return [name for name in names if catalog.file(name) is None and (self._pg_wal / name).exists()]

    def _missing(self, position: WrittenPosition) -> list[Segment]:
        """The unrecorded complete segments of the current timeline, where its ancestors are recorded."""
        history = self._history(position.timeline)
        if history is None or not set(history.path[:-1]) & set(self._archiver.catalog.timelines()):
            return []
        timeline, size = position.timeline, self._size
        wanted = Run(timeline, history.begin(timeline) // size, position.lsn // size - 1)
        runs = tuple(Run(*run) for run in self._archiver.catalog.runs())
        return [
            Segment(timeline, number)
            for run in lacking(runs, wanted)
            for number in range(run.first, run.last + 1)
        ]

    def _history(self, timeline: int) -> TimelineHistory | None:
        """The ancestry as the server has it; None for the first timeline, or when it cannot be read."""
        if timeline < 2:
            return None
        path = self._pg_wal / f"{timeline:08X}.history"
        try:
            return TimelineHistory.parse(timeline, path.read_bytes())
        except (OSError, MalformedObject) as error:
            log.error("timeline without a readable history file", timeline=timeline, reason=str(error))
            return None

    async def _wait(self, call: Callable[..., Found], *arguments: object) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *arguments)


def _runs(timeline: int, numbers: list[int]) -> Runs:
    """Ascending numbers as runs."""
    found: list[Run] = []
    for number in numbers:
        if found and found[-1].last == number - 1:
            found[-1] = Run(timeline, found[-1].first, number)
        else:
            found.append(Run(timeline, number, number))
    return tuple(found)
