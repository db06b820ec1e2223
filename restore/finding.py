"""`find`: gathers lists of relations, reads the WAL between two times, and says who touched a table.

Gather → walk (several threads) → follow files → answer. Changes nothing anywhere. Rules:
- What began before the asked time is read too, back to where nothing of it can have begun.
- A file that is only met while following the WAL is counted in a second walk over the same stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from restore.core.branches import path_to
from restore.core.collecting import Asked, Collector
from restore.core.filehistory import FileHistory, Follower, Range
from restore.core.findings import Finding, Kind, findings
from restore.core.joining import precedes
from restore.core.model import View
from restore.core.namesakes import namesakes, unlisted, unseen
from restore.core.searchrange import SearchRange, before_of, narrowed, samples_on, search_range
from restore.core.tables import Listed, Table, Wanted, table_of_file, tables_named
from restore.core.walk import Branch
from restore.relationlists import asked_ones, live_lists, saved_lists
from restore.walreader import WalReader
from restore.walsearch import Piece, Source, walk_path
from walarchiver.assembly import Archive
from walarchiver.core.coverage import coverage_on_path, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.relfile import RelFile
from walarchiver.core.scan import Ending
from walarchiver.core.stretch import walk_stretch
from walarchiver.core.touch import Watch
from walarchiver.errors import NotReachable, TableNotListed

NEAR_LIST = 32
"""A list of relations that lies so many segments before the asked time is taken into what is read: from a
place inside it every row of pg_class can be followed."""
BACK_MAX = 256
"""Segments read before the asked time to meet the beginnings of long transactions."""
_NOTHING = Watch(frozenset(), {})


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for. Either `table` or `relation` is given."""

    kinds: frozenset[Kind]
    from_us: int
    to_us: int
    table: str | None = None
    relation: RelFile | None = None
    database: str | None = None
    timeline: int | None = None
    aborted: bool = False
    limit: int = 1000


@dataclass(slots=True)
class Answer:
    """What was found, and how far it can be trusted."""

    path: TimelineHistory
    wanted: Wanted | None
    histories: list[tuple[Table, FileHistory]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    start: Lsn = Lsn(0)  # noqa: RUF009 (a number)
    end: Lsn = Lsn(0)  # noqa: RUF009
    segments: int = 0
    walked: int = 0
    """Bytes of WAL."""
    omitted: int = 0
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gap: str | None = None


@dataclass(slots=True)
class _Reader:
    """One question on one archive."""

    archive: Archive
    view: View
    path: TimelineHistory
    workers: int
    progress: Callable[[int, int], None]

    @property
    def size(self) -> int:
        return self.view.segment_size

    def first_of(self, span: SearchRange, wal: WalReader) -> tuple[int, bool]:
        """Where to begin so that whatever ends in `span` is met whole; False when it may not be."""

        def pages(number: int) -> memoryview | None:
            mapped = wal.segment(segment_on_path(self.path, number, self.view.segment_size))
            return None if mapped is None else memoryview(mapped)

        number, oldest = span.first, 0
        while span.first - number < BACK_MAX:
            before = before_of(self.view, self.path, number)
            if before is None:
                return number, number * self.size <= self.size  # the very first segment of a cluster
            number = before
            found = walk_stretch(number, number, pages, segment_size=self.view.segment_size, watch=_NOTHING)
            marks = [mark for piece in found.found for mark in piece.next_xids]
            for mark in sorted(marks, key=lambda each: each.lsn, reverse=True):
                oldest = oldest or mark.oldest
                if oldest and not precedes(oldest, mark.xid):
                    return min(number, mark.lsn // self.size), True
        return number, False

    def walk(
        self, span: SearchRange, first: int, watch: Watch, take: Callable[[Piece], None]
    ) -> Piece | None:
        """Hand every piece to `take`; the last one."""
        source = Source(
            self.archive.repository,
            self.archive.system,
            self.archive.catalog,
            self.path,
            self.view.segment_size,
        )
        total = span.last - first + 1
        last: Piece | None = None
        for last in walk_path(source, first, span.last, span.until, watch, workers=self.workers):
            take(last)
            self.progress(last.number - first + 1, total)
        return last


def find(
    archive: Archive,
    view: View,
    question: Question,
    *,
    dsn: str | None,
    workers: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Answer:
    """The answer. Raises NotReachable (no such timeline), TableNotListed, KeyCannotOpen, Object…, Store…

    `progress(done, total)`: segments.
    """
    timeline = question.timeline or view.current_timeline
    path = path_to(view, timeline)
    if path is None:
        raise NotReachable(f"the history of timeline {timeline} is not archived")
    reader = _Reader(archive, view, path, workers, progress)
    wal = WalReader(
        repository=archive.repository,
        system=archive.system,
        catalog=archive.catalog,
        segment_size=view.segment_size,
    )
    try:
        span = search_range(
            view, path, question.from_us, question.to_us, lambda number: wal.scan(path, number).max_time
        )
        answer = Answer(path, None)
        if span is None:
            answer.doubts.append("nothing of the asked time is archived on this timeline")
            return answer
        span = narrowed(span, question.from_us, question.to_us, lambda number: wal.recorded(path, number))
        first, complete = reader.first_of(span, wal)
        branch = Branch(view, path, wal.knowledge())
        answer.start, answer.end = Lsn(first * reader.size), Lsn((span.last + 1) * reader.size)
        first = min(first, _near_list(branch, view, span, first))
        answer.start = Lsn(first * reader.size)
        lists = asked_ones(saved_lists(archive, branch, answer.start, answer.end, answer.notes), answer.notes)
    finally:
        wal.close()
    if dsn is not None:
        lists += asked_ones(live_lists(dsn, archive, timeline, question.database, answer.notes), answer.notes)
    if span.reaches_end and (proven := _proven_us(view, path)) < question.to_us:
        answer.notes.append(f"what committed after {format_rfc3339(proven)} may not be archived yet")
    wanted = _wanted(lists, question)
    answer.wanted = wanted
    _search(reader, question, span, first, wanted, answer, complete=complete)
    return answer


def _proven_us(view: View, path: TimelineHistory) -> int:
    """The newest moment of which a sample says that its WAL was archived; 0 for none."""
    return max((sample.time for sample in samples_on(view, path)), default=0)


def _near_list(branch: Branch, view: View, span: SearchRange, first: int) -> int:
    """The segment in which the last base backup before `first` began, if it is near and archived."""
    before = [backup.start_lsn // view.segment_size for backup in branch.candidates()]
    near = max((number for number in before if number <= first), default=first)
    reach = coverage_on_path(view.runs, branch.path, view.segment_size, near)
    whole = reach.last is not None and reach.last >= span.last
    return near if whole and first - near <= NEAR_LIST else first


def _wanted(lists: Sequence[Listed], question: Question) -> Wanted:
    if question.relation is not None:
        return table_of_file(lists, question.relation)
    assert question.table is not None
    return tables_named(lists, question.table, question.database)


def _search(
    reader: _Reader,
    question: Question,
    span: SearchRange,
    first: int,
    wanted: Wanted,
    answer: Answer,
    *,
    complete: bool,
) -> None:
    """Walk, follow, and fill in the answer."""
    files = frozenset(file for table in wanted.tables for file in table.files)
    collector = _collect(reader, question, span, first, wanted, files, answer, complete=complete)
    tables, unread = namesakes(collector.changes, wanted)
    wanted = replace(wanted, tables=wanted.tables + tables)
    if not wanted.tables:
        raise TableNotListed(f"no table {question.table} is in any list, and none was made in what was read")
    answer.wanted = wanted
    histories = _follow(collector, wanted, answer)
    met = frozenset(file for _table, history in histories for file in history.files) - files
    if met:
        collector = _collect(reader, question, span, first, wanted, files | met, answer, complete=complete)
        histories = _follow(collector, wanted, answer)
    answer.histories = histories
    answer.omitted = collector.omitted
    answer.findings = findings(collector.transactions(), histories, wanted.database, question.kinds)
    answer.doubts += wanted.doubts
    answer.doubts += unseen(histories, unread)
    answer.doubts += unlisted(histories, wanted, collector.changes, question.from_us)
    answer.doubts += [doubt for _table, history in histories for doubt in history.doubts]
    if collector.incomplete:
        answer.doubts.append(
            f"{collector.incomplete} transactions may have begun before {format_lsn(answer.start)}, where "
            "the WAL that was read begins; what they did before is not counted"
        )
    if collector.remapped:
        answer.doubts.append(
            f"the catalogs themselves were rewritten at {format_lsn(collector.remapped[0])}: what became of "
            "files behind it cannot be followed; give --from behind it as well"
        )
    for one in collector.changes:
        if any(step.moved and step.database == wanted.database for step in one.touch.databases):
            answer.doubts.append(f"transaction {one.xid} moved the whole database to another tablespace")
    answer.notes += [
        f"{table.name} is unlogged: nothing that happens to its rows is in the WAL"
        for table in wanted.tables
        if table.unlogged
    ]
    still_open = sum(
        any(file in collector.asked.files for file in touch.rows) for touch in collector.joiner.open.values()
    )
    if still_open:
        answer.notes.append(
            f"{still_open} transactions (or parts) touched it and did not end in what was read"
        )


def _collect(
    reader: _Reader,
    question: Question,
    span: SearchRange,
    first: int,
    wanted: Wanted,
    files: frozenset[RelFile],
    answer: Answer,
    *,
    complete: bool,
) -> Collector:
    asked = Asked(
        files, question.kinds, question.from_us, question.to_us, question.limit, aborted=question.aborted
    )
    collector = Collector(asked, complete)
    watch = Watch(files, {wanted.database: wanted.catalog})

    def take(piece: Piece) -> None:
        for found in piece.stretch.found:
            collector.add(found)

    last = reader.walk(span, first, watch, take)
    answer.segments = (last.number if last else first) - first + 1
    answer.walked += answer.segments * reader.size
    if last is None:
        return collector
    answer.end = last.stretch.end
    whole = last.stretch.ending is Ending.WHOLE and last.number == span.last
    at_end = last.number == span.last and last.stretch.ending in (Ending.OPEN, Ending.ZERO)
    if span.later is not None and (whole or at_end):
        assert span.missing is not None
        answer.gap = (
            f"{span.missing.name(reader.view.segment_size)} is missing; "
            f"WAL goes on with {span.later.name(reader.view.segment_size)}"
        )
    elif not whole and not (at_end and span.reaches_end):
        why = last.stretch.problem or last.stretch.ending
        answer.gap = f"WAL cannot be read on at {format_lsn(last.stretch.end)}: {why}"
    return collector


def _follow(collector: Collector, wanted: Wanted, answer: Answer) -> list[tuple[Table, FileHistory]]:
    span = Range(answer.start, answer.end, collector.settled_xid)
    follower = Follower(collector.changes, wanted.database, span)
    touched = frozenset(collector.touched)
    return [
        (table, follower.follow(table.name, table.sightings, touched, oid=table.oid, files=table.files))
        for table in wanted.tables
    ]
