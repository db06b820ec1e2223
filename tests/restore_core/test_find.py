"""The rules of `find` that need no server: where to read, what belongs together, what is kept."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from random import Random

import pytest

from restore.core.catalogsteps import Fate
from restore.core.collecting import Asked, Collector
from restore.core.filehistory import Follower, Range, Sighting
from restore.core.findings import Kind
from restore.core.joining import Joiner, Transaction, precedes
from restore.core.model import Horizon, Run, View
from restore.core.searchrange import SearchRange, narrowed, search_range
from tests.core.twins import joined
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.relfile import RelFile, Slot
from walarchiver.core.scan import Ending, EventKind, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.touch import (
    NO_END,
    CatalogStep,
    Ended,
    FileStep,
    NextXid,
    RowGroups,
    RowOp,
    Rows,
    Stopped,
    Touch,
    Touches,
)

MIB = SegmentBytes(1 << 20)
SECOND = 1_000_000
FILE, NEXT, OTHER, OTHER_NEXT = (RelFile(1663, 5, number) for number in (20, 21, 30, 31))


def view(samples: list[tuple[int, int]], *runs: tuple[int, int]) -> View:
    """Samples are (second, segment)."""
    return View(
        cluster="main",
        system=1,
        major=18,
        segment_size=MIB,
        ledger_seq=1,
        runs=tuple(Run(1, first, last) for first, last in runs),
        histories={},
        backups=(),
        horizons=tuple(
            Horizon(CommitTime(second * SECOND), Lsn(segment * MIB + 100_000), 1)
            for second, segment in samples
        ),
        current_timeline=1,
    )


def bounds(seen: View, first: int, last: int) -> tuple[int, int] | None:
    def newest_in(_number: int) -> CommitTime | None:
        raise AssertionError("no segment need be opened")

    span = search_range(seen, TimelineHistory(1), first * SECOND, last * SECOND, newest_in)
    return None if span is None else (span.first, span.last)


def test_the_range_lies_between_the_samples_around_the_asked_times() -> None:
    seen = view([(number * 10, number) for number in range(1, 40)], (1, 40))
    assert bounds(seen, 101, 149) == (10, 16)
    assert bounds(seen, 0, 5) == (1, 1)
    assert bounds(seen, 500, 600) == (39, 40)
    assert bounds(view([]), 0, 10) is None


def test_a_clock_that_was_set_back_makes_the_range_longer() -> None:
    """Segments 11 to 20 tell the times of segments 6 to 15 once more."""
    samples = [(n * 10, n) for n in range(1, 11)] + [((n - 5) * 10, n) for n in range(11, 31)]
    found = bounds(view(samples, (1, 30)), 71, 79)
    assert found is not None
    assert found[0] <= 7
    assert found[1] >= 13


def test_a_range_that_goes_on_behind_a_gap_says_so() -> None:
    seen = view([(number * 10, number) for number in range(1, 40)], (1, 20), (25, 40))
    span = search_range(seen, TimelineHistory(1), 150 * SECOND, 300 * SECOND, lambda _number: None)
    assert span is not None
    assert (span.last, span.missing, span.later) != (span.last, None, None)
    assert span.missing is not None
    assert span.missing.number == 21


def test_where_samples_are_rare_segments_are_opened_by_halves() -> None:
    opened: list[int] = []

    def newest_in(number: int) -> CommitTime | None:
        opened.append(number)
        return CommitTime(number * SECOND)

    span = search_range(view([], (1, 1000)), TimelineHistory(1), 700 * SECOND, 701 * SECOND, newest_in)
    assert span is not None
    assert 690 <= span.first <= 700
    assert len(opened) < 12


def scan(number: int, *times: int, ending: Ending = Ending.WHOLE) -> SegmentScan:
    """The scan of a segment with events of these seconds."""
    found = [CommitTime(time * SECOND) for time in times]
    start = Lsn(number * MIB)
    return SegmentScan(
        segment=Segment(1, number), system=1, magic=1, ending=ending, problem="", first=start,
        first_prev=start, last=start, end=Lsn(start + MIB), records=9, commits=len(times),
        aborts=0, prepares=0, min_time=min(found, default=None), max_time=max(found, default=None),
        first_event=None, last_event=None, last_commit=None, backward_us=0, restore_points=(), checkpoints=(),
        parameter_changes=(), prepared=(), switched=False, overwritten=(),
    )  # fmt: skip


def test_segments_at_both_ends_that_tell_nothing_of_the_asked_time_are_left_out() -> None:
    span = SearchRange(100, 200, 250)
    scans = {number: scan(number, number) for number in range(100, 201)}

    def bounds_of(first: int, last: int) -> tuple[int, int]:
        found = narrowed(span, first * SECOND, last * SECOND, scans.get)
        assert (found.until, found.missing, found.reaches_end) == (250, None, False)
        return found.first, found.last

    assert bounds_of(150, 160) == (150, 160)
    assert bounds_of(105, 195) == (100, 200)  # so few are read rather than left out
    assert bounds_of(0, 99) == (100, 100)
    scans[140], scans[180] = scan(140), scan(180)  # no event at all
    assert bounds_of(150, 160) == (150, 160)
    scans[130] = scan(130, 155)  # the clock was set back behind it
    scans[170] = scan(170, 400, 155)
    assert bounds_of(150, 160) == (130, 170)
    scans[120] = scan(120, 1, ending=Ending.BAD)  # it may hold more than its scan says
    del scans[190]  # no scan
    assert bounds_of(150, 160) == (120, 190)


def touch(lsn: int, *, deleted: int = 0) -> Touch:
    return Touch(rows={FILE: Rows(deleted=deleted)}, first=lsn, last=lsn)


def ended(kind: EventKind, lsn: int, xid: int, *subxids: int) -> Ended:
    return Ended(kind, Lsn(lsn), xid, CommitTime(lsn), subxids)


def test_parts_in_several_stretches_and_subtransactions_become_one_transaction() -> None:
    joiner = Joiner()
    assert list(joiner.add(Touches({7: touch(1, deleted=2), 8: touch(2, deleted=3)}))) == []
    assert list(joiner.add(Touches({7: touch(11, deleted=4)}, [ended(EventKind.ABORT, 12, 9)]))) == []
    (one,) = joiner.add(Touches({}, [ended(EventKind.COMMIT, 21, 7, 8)]))
    assert (one.xid, one.lsn, one.touch.rows[FILE].deleted) == (7, 21, 9)
    assert joiner.open == {}


def test_a_server_stop_ends_what_is_not_prepared() -> None:
    joiner = Joiner()
    stretch = Touches(
        {7: touch(1, deleted=1), 8: touch(2, deleted=1), 9: touch(3, deleted=1)},
        [ended(EventKind.PREPARE, 4, 8, 9), Stopped(Lsn(5))],
    )
    assert list(joiner.add(stretch)) == []
    (one,) = joiner.add(
        Touches({}, [ended(EventKind.COMMIT_PREPARED, 9, 8, 9), ended(EventKind.COMMIT, 10, 7)])
    )
    assert (one.xid, one.touch.rows[FILE].deleted) == (8, 2)


@pytest.mark.parametrize(("one", "other", "expected"), [(3, 4, True), (4, 3, False), (2**32 - 1, 3, True)])
def test_ids_come_round(one: int, other: int, expected: bool) -> None:
    assert precedes(one, other) is expected


def test_of_too_many_transactions_those_with_most_rows_are_kept() -> None:
    asked = Asked(frozenset({FILE}), frozenset({Kind.DELETE}), 0, 100, limit=2)
    collector = Collector(asked, complete=True)
    for xid, rows in ((10, 5), (11, 50), (12, 1), (13, 20)):
        collector.add(Touches({xid: touch(xid, deleted=rows)}, [ended(EventKind.COMMIT, xid + 1, xid)]))
    late = Touches({20: touch(200, deleted=99)}, [ended(EventKind.COMMIT, 201, 20)])
    collector.add(late)
    assert [one.xid for one in collector.transactions()] == [11, 13]
    assert collector.omitted == 2


TIMES = (5, 50, 500)


def random_pieces(chance: Random) -> list[Touches]:
    """Pieces as the compiled part gives them: rows in columns, most ends bare, some not."""
    pieces, lsn, xid = [], 100, 10
    for _piece in range(chance.randrange(1, 5)):
        piece = Touches(rows=RowGroups((FILE, NEXT, OTHER)))
        rows, bare = piece.rows, piece.bare
        begun: list[int] = []
        for _ in range(chance.randrange(12)):
            xid += chance.randrange(1, 3)
            for _group in range(chance.choice((1, 1, 1, 1, 2))):
                lsn += 10
                for column, value in (
                    (rows.xids, xid),
                    (rows.numbers, chance.choice((0, 0, 1, 2))),
                    (rows.inserted, chance.choice((0, 0, 3, -1))),
                    (rows.updated, chance.choice((0, 0, 2))),
                    (rows.deleted, chance.choice((0, 1, 7))),
                    (rows.firsts, lsn),
                    (rows.lasts, lsn + 5),
                    (rows.ends, NO_END),
                ):
                    column.append(value)
            begun.append(xid)
        if begun and chance.random() < 0.3:
            mixed = begun.pop()
            piece.touches[mixed] = touch(lsn, deleted=1)
            piece.rows = rows = rows.without({mixed})
        for one in chance.sample(begun, len(begun) * 3 // 4):
            lsn += 10
            kind = chance.choice((EventKind.COMMIT, EventKind.COMMIT, EventKind.ABORT))
            if chance.random() < 0.2:
                piece.ends.append(Ended(kind, Lsn(lsn), one, CommitTime(chance.choice(TIMES))))
                continue
            bare.add(Lsn(lsn), one, chance.choice(TIMES) - POSTGRES_EPOCH_US, committed=kind.is_commit)
            for index, mine in enumerate(rows.xids):
                if mine == one:
                    rows.ends[index] = len(bare.xids) - 1
        if chance.random() < 0.2:
            piece.ends.append(Stopped(Lsn(lsn)))
        if chance.random() < 0.2:
            piece.ends.append(ended(EventKind.PREPARE, lsn, xid))
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("seed", range(150))
def test_rows_in_columns_are_collected_as_rows_of_transactions(seed: int) -> None:
    chance = Random(seed)
    kinds = frozenset(chance.sample((Kind.DELETE, Kind.UPDATE, Kind.INSERT, Kind.TRUNCATE), 2))
    asked = Asked(
        frozenset({FILE, NEXT}), kinds, 6, 499, limit=chance.choice((2, 5, 100)), aborted=seed % 2 == 0
    )
    if chance.random() < 0.3:
        asked = replace(asked, from_us=0, to_us=1000)
    pieces = random_pieces(chance)
    columns, plain = Collector(asked, complete=True), Collector(asked, complete=True)
    for piece in pieces:
        plain.add(joined([deepcopy(piece)]))
        columns.add(piece)
    found = columns.transactions()
    for one in found:
        one.touch.fresh.clear()  # nothing to the transaction as a whole
    assert found == plain.transactions()
    assert (columns.omitted, columns.touched) == (plain.omitted, plain.touched)
    assert columns.joiner.open.keys() == plain.joiner.open.keys()


def test_what_committed_before_any_mark_is_counted_once_the_mark_is_known() -> None:
    asked = Asked(frozenset({FILE}), frozenset({Kind.DELETE}), 0, 10**6, limit=2)
    collector = Collector(asked, complete=False)
    before = Touches(ends=[ended(EventKind.COMMIT, 10, 7), ended(EventKind.ABORT, 11, 8)])
    before.bare.add(Lsn(12), 90, 12 - POSTGRES_EPOCH_US, committed=True)
    before.bare.add(Lsn(13), 6, 13 - POSTGRES_EPOCH_US, committed=True)
    collector.add(before)
    assert collector.incomplete == 3
    collector.add(Touches(next_xids=[NextXid(Lsn(14), 80)]))
    assert collector.incomplete == 2
    late = Touches(ends=[ended(EventKind.COMMIT, 20, 79), ended(EventKind.COMMIT, 21, 80)])
    late.bare.add(Lsn(22), 78, 2**40, committed=True)
    collector.add(late)
    assert collector.incomplete == 3


def changed(*steps: CatalogStep | FileStep, dropped: tuple[RelFile, ...]) -> Transaction:
    mine = Touch(
        created=[step for step in steps if isinstance(step, FileStep)],
        steps=[step for step in steps if isinstance(step, CatalogStep)],
        first=100,
        last=100,
    )
    return Transaction(7, Lsn(200), CommitTime(200), True, mine, dropped)


def update(lsn: int, old: int, new: int) -> CatalogStep:
    return CatalogStep(Lsn(lsn), 5, RowOp.UPDATE, Slot(0, old), Slot(0, new))


def delete(lsn: int, old: int) -> CatalogStep:
    return CatalogStep(Lsn(lsn), 5, RowOp.DELETE, Slot(0, old), None)


def fates(one: Transaction, *sightings: Sighting) -> tuple[list[Fate], list[str]]:
    follower = Follower([one], 5, Range(Lsn(50), Lsn(300), None))
    history = follower.follow("t", sightings, frozenset({FILE}))
    return [loss.outcome.fate for loss in history.losses], history.doubts


OLD_LIST = Sighting(Lsn(10), "an old list", FILE)


def test_two_truncated_tables_are_told_apart_by_the_order_of_their_drops() -> None:
    """The commit lists the newest drop first."""
    one = changed(
        FileStep(Lsn(101), NEXT),
        update(102, 1, 2),
        FileStep(Lsn(103), OTHER_NEXT),
        update(104, 3, 4),
        dropped=(OTHER, FILE),
    )
    follower = Follower([one], 5, Range(Lsn(50), Lsn(300), None))
    history = follower.follow("t", [OLD_LIST], frozenset())
    assert [(loss.outcome.fate, loss.outcome.file) for loss in history.losses] == [(Fate.TRUNCATE, NEXT)]
    assert history.doubts == []


def test_a_drop_beside_another_tables_truncate_is_only_told_where_the_row_is_known() -> None:
    one = changed(FileStep(Lsn(101), OTHER_NEXT), update(102, 3, 4), delete(103, 1), dropped=(FILE, OTHER))
    found, doubts = fates(one, OLD_LIST)
    assert found == [Fate.UNCLEAR]
    assert doubts
    inside = Sighting(Lsn(60), "a list inside", FILE, slot=Slot(0, 1))
    assert fates(one, inside) == ([Fate.DROP], [])
    inside = Sighting(Lsn(60), "a list inside", FILE, slot=Slot(0, 3))
    assert fates(one, inside) == ([Fate.TRUNCATE], [])


def test_a_file_that_nothing_proves_at_the_start_is_a_doubt() -> None:
    one = changed(dropped=())
    later = Sighting(Lsn(400), "a later list", FILE, xmin=90)
    for settled, expected in ((None, 1), (80, 1), (100, 0)):
        follower = Follower([one], 5, Range(Lsn(50), Lsn(300), settled))
        assert len(follower.follow("t", [later], frozenset()).doubts) == expected
    follower = Follower([one], 5, Range(Lsn(50), Lsn(300), None))
    assert follower.follow("t", [OLD_LIST, later], frozenset()).doubts == []
