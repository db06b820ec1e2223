"""Cases of the planner that have names, each small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from restore.core.estimate import estimate
from restore.core.model import (
    AtLatest,
    AtLsn,
    AtName,
    AtXid,
    BackupBelow,
    Limits,
    Verdict,
    WalKnowledge,
)
from restore.core.planner import decide
from restore.core.windows import latest_restorable, windows
from tests.restore_core.scenes import ask, at, full, gap_world, stop_of, three_commits
from tests.restore_core.synthetic import SECOND, SIZE, SLOTS, T0, end_of, new_world, start_of
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import EventKind, SegmentScan
from walarchiver.core.segment import Segment
from walarchiver.core.walpage import settled_lsn

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize(
    ("seconds", "last_kept"),
    [(30, 740), (30.000001, 740), (29.999999, 739), (20, 739), (10, None)],
)
def test_a_commit_at_the_asked_microsecond_is_kept_and_the_next_is_not(
    seconds: float, last_kept: int | None
) -> None:
    world, _ = three_commits()
    decision = ask(world, at(seconds))
    assert decision.verdict is Verdict.REACHABLE
    lsn, inclusive, kept = stop_of(decision)
    assert (inclusive, kept) == (False, last_kept)
    assert decision.stop is not None
    assert decision.stop.stop_event is not None
    assert decision.stop.stop_event.lsn == lsn


def test_the_exact_time_of_the_last_commit_is_reachable_where_postgresql_would_refuse() -> None:
    world, _ = three_commits()
    world.horizons.clear()
    decision = ask(world, at(40))
    assert decision.verdict is Verdict.IDLE
    assert stop_of(decision)[1:] == (True, 741)


def test_a_moment_inside_a_backup_is_served_by_the_one_before_it() -> None:
    world, writer = three_commits()
    start = writer.position
    writer.commit(100 * SECOND, 750)
    writer.finish_backup("second", start, 120 * SECOND)
    writer.commit(130 * SECOND, 751)
    full(writer)
    inside = ask(world, at(110))
    assert inside.backup is not None
    assert inside.backup.id == "first"
    assert stop_of(inside)[2] == 750
    after = ask(world, at(125))
    assert after.backup is not None
    assert after.backup.id == "second"


def test_a_commit_newer_than_the_moment_inside_the_backup_disqualifies_it() -> None:
    """The clock ran ahead while the backup was taken: its stop time alone would accept it."""
    world, writer = three_commits()
    start = writer.position
    writer.commit(500 * SECOND, 750)
    writer.finish_backup("second", start, 120 * SECOND)
    writer.commit(600 * SECOND, 751)
    full(writer)
    decision = ask(world, at(130))
    assert decision.backup is not None
    assert decision.backup.id == "first"
    assert stop_of(decision)[2] == 741


def test_before_the_first_backup_is_refused_with_the_first_moment_named() -> None:
    world, _ = three_commits()
    decision = ask(world, at(9.999999))
    assert decision.verdict is Verdict.BEFORE_FIRST_BACKUP
    assert decision.nearest.after == T0 + 10 * SECOND
    assert decision.nearest.before is None


def test_without_any_backup_nothing_is_reachable() -> None:
    world, writer = new_world()
    writer.commit(SECOND, 739)
    full(writer)
    for target in (at(1), AtLatest(), AtXid(739), AtName("x"), AtLsn(start_of(SLOTS))):
        decision = ask(world, target)
        assert decision.verdict is Verdict.BEFORE_FIRST_BACKUP
        assert "no base backup" in decision.reason


def test_a_hole_refuses_what_lies_in_it_and_names_file_and_neighbours() -> None:
    world = gap_world()
    decision = ask(world, at(30))
    assert decision.verdict is Verdict.GAP
    assert decision.missing == (Segment(1, 3),)
    assert Segment(1, 3).name(SIZE) in decision.reason
    assert Segment(1, 4).name(SIZE) in decision.reason
    assert decision.nearest.before == T0 + 20 * SECOND
    assert decision.nearest.after == T0 + 35 * SECOND


def test_behind_a_hole_the_next_backup_serves_again() -> None:
    decision = ask(gap_world(), at(45))
    assert decision.verdict is Verdict.REACHABLE
    assert decision.backup is not None
    assert decision.backup.id == "second"


def test_a_damaged_segment_is_a_hole_from_its_last_good_record_on() -> None:
    world, writer = three_commits()
    writer.commit(70 * SECOND, 742)
    writer.commit(80 * SECOND, 743)
    full(writer)
    world.damaged[Segment(1, 2)] = start_of(2 * SLOTS + 1)
    assert stop_of(ask(world, at(65)))[2] == 741
    decision = ask(world, at(75))
    assert decision.verdict is Verdict.GAP
    assert decision.missing == (Segment(1, 2),)
    assert "checksum" in decision.reason


def test_segments_that_do_not_link_are_not_joined() -> None:
    """The same name archived from a clone: whole in itself, but not the continuation."""
    world, writer = three_commits()
    writer.commit(70 * SECOND, 742)
    full(writer)
    real = world.scan

    def scan(path: TimelineHistory, number: int) -> SegmentScan:
        found = real(path, number)
        return replace(found, first_prev=Lsn(0x1234)) if number == 2 else found

    knowledge = WalKnowledge(
        scan=scan, events=world.events, last_record=world.last_record, next_record=world.next_record
    )
    decision = decide(world.view(), at(65), knowledge)
    assert decision.verdict is Verdict.GAP
    assert "does not follow" in decision.reason


def test_a_backup_whose_own_end_is_not_archived_is_passed_over_and_named() -> None:
    world, writer = new_world()
    start = writer.position
    writer.write(slots=SLOTS + 3)
    writer.finish_backup("first", start, 10 * SECOND)
    writer.archive()
    assert ask(world, at(20)).verdict is Verdict.NOT_PROVEN
    assert "first" in ask(world, at(20)).reason
    assert ask(world, AtLatest()).verdict is Verdict.NOT_PROVEN
    full(writer)
    assert ask(world, AtLatest()).verdict is Verdict.REACHABLE


def test_a_prepared_transaction_open_at_the_moment_is_listed_and_a_later_one_is_not_replayed() -> None:
    world, writer = new_world()
    writer.backup("first", SECOND)
    writer.event(10 * SECOND, 739, EventKind.PREPARE, gid="early")
    writer.event(11 * SECOND, 740, EventKind.PREPARE, gid="ended")
    writer.event(12 * SECOND, 740, EventKind.COMMIT_PREPARED, gid="ended")
    late = writer.event(30 * SECOND, 741, EventKind.PREPARE, gid="late")
    writer.commit(40 * SECOND, 742)
    full(writer)
    decision = ask(world, at(20))
    assert [event.gid for event in decision.prepared_open] == ["early"]
    assert stop_of(decision) == (late.lsn, False, 740)


def test_limits_are_the_largest_up_to_the_stop() -> None:
    world, writer = three_commits()
    writer.change(connections=300)
    writer.commit(70 * SECOND, 742)
    writer.change(connections=900)
    full(writer)
    assert ask(world, at(25)).limits == Limits(100, 8, 10, 0, 64)
    latest = ask(world, AtXid(742)).limits
    assert latest is not None
    assert latest.max_connections == 300


def test_wal_level_minimal_ends_what_can_be_recovered() -> None:
    world, writer = three_commits()
    change = writer.change(0)
    writer.commit(70 * SECOND, 742)
    full(writer)
    assert ask(world, at(65)).verdict is Verdict.GAP
    assert "minimal" in ask(world, at(65)).reason
    assert stop_of(ask(world, AtLatest())) == (change.lsn, False, 741)


@pytest.mark.parametrize(("before", "kept"), [(False, 740), (True, 739)])
def test_a_transaction_is_the_last_kept_or_the_first_undone(before: bool, kept: int) -> None:
    world, _ = three_commits()
    decision = ask(world, AtXid(740, before=before))
    assert stop_of(decision)[1:] == (not before, kept)
    assert decision.undone_commits == (2 if before else 1)


def test_a_transaction_that_only_was_prepared_is_unknown() -> None:
    world, writer = three_commits()
    writer.event(70 * SECOND, 800, EventKind.PREPARE, gid="p")
    full(writer)
    decision = ask(world, AtXid(800))
    assert decision.verdict is Verdict.UNKNOWN_TARGET
    assert "800" in decision.reason


def test_a_restore_point_made_twice_is_asked_back_with_positions_that_work() -> None:
    world, writer = three_commits()
    writer.point("before_migration", 70 * SECOND)
    assert ask(world, AtName("before_migration")).verdict is Verdict.UNKNOWN_TARGET
    full(writer)
    assert ask(world, AtName("before_migration")).verdict is Verdict.REACHABLE
    writer.commit(80 * SECOND, 742)
    writer.point("before_migration", 90 * SECOND)
    full(writer)
    decision = ask(world, AtName("before_migration"))
    assert decision.verdict is Verdict.AMBIGUOUS
    assert [point.time - T0 for point in decision.candidates] == [70 * SECOND, 90 * SECOND]
    kept = [stop_of(ask(world, AtLsn(point.end)))[2] for point in decision.candidates]
    assert kept == [741, 742]


def test_a_position_is_rounded_up_to_the_next_record() -> None:
    world, _ = three_commits()
    second = next(rec for rec in world.records[1] if getattr(rec.fact, "xid", None) == 740)
    assert stop_of(ask(world, AtLsn(second.lsn)))[:2] == (second.lsn, False)
    assert stop_of(ask(world, AtLsn(Lsn(second.lsn + 1))))[:2] == (second.end, False)


def test_the_end_of_the_archive_is_a_position_and_one_more_byte_is_not() -> None:
    world, writer = three_commits()
    last = world.records[1][-1]
    assert stop_of(ask(world, AtLsn(last.end)))[:2] == (last.lsn, True)
    assert stop_of(ask(world, AtLsn(writer.position)))[:2] == (last.lsn, True), "inside the page header"
    assert ask(world, AtLsn(Lsn(writer.position + 8))).verdict is Verdict.NOT_PROVEN


def test_a_stop_record_that_runs_into_the_next_segment_needs_that_segment_too() -> None:
    world, writer = new_world()
    writer.backup("first", SECOND)
    long = writer.commit(10 * SECOND, 739, slots=SLOTS)
    full(writer)
    decision = ask(world, at(5))
    assert stop_of(decision)[0] == long.lsn
    assert decision.wal is not None
    assert (decision.wal.first.number, decision.wal.last.number, decision.wal.bytes) == (1, 2, 2 * SIZE)


def test_the_latest_restorable_second_is_that_of_the_newest_window() -> None:
    world, writer = three_commits()
    newest = latest_restorable(world.view(), world.knowledge())
    assert newest is not None
    assert (newest.latest, newest.end_lsn) == (T0 + 59 * SECOND, end_of(2 * SLOTS))
    start = writer.position
    writer.checkpoint(100 * SECOND)
    writer.finish_backup("second", start, 101 * SECOND)
    full(writer)
    newest = latest_restorable(world.view(), world.knowledge())
    assert newest is not None
    assert newest.backup.id == "first", "behind the second backup nothing is proven yet"
    assert newest.latest == T0 + 100 * SECOND, "by the second backup's checkpoint"
    found = windows(world.view(), world.knowledge())
    assert [window.backup.id for window in found] == ["first", "second"]
    assert found[1].latest is None


def test_a_plan_asks_for_events_only_where_they_can_matter() -> None:
    world, writer = three_commits()
    for number in range(40):
        writer.commit((100 + number) * SECOND, 1000 + number)
        writer.switch()
    writer.archive()
    opened: set[int] = set()

    def events(path: TimelineHistory, number: int) -> object:
        opened.add(number)
        return world.events(path, number)

    knowledge = WalKnowledge(
        scan=world.scan,
        events=events,  # type: ignore[arg-type]
        last_record=world.last_record,
        next_record=world.next_record,
    )
    decision = decide(world.view(), at(120.5), knowledge)
    assert stop_of(decision)[2] == 1020
    assert opened <= {1, 22, 23, 41}, "the backup's, the stop's and its neighbour's, the last"


@pytest.mark.parametrize(
    ("lsn", "settled"),
    [
        (0x2000000, 0x2000000),
        (0x2000001, 0x2000000),
        (0x2000028, 0x2000000),
        (0x2000030, 0x2000030),
        (0x2002018, 0x2002000),
        (0x2002020, 0x2002020),
    ],
)
def test_a_position_inside_a_page_header_counts_as_the_pages_start(lsn: int, settled: int) -> None:
    assert settled_lsn(Lsn(lsn), SIZE) == settled


def test_base_backups_that_ended_later_are_passed_over_without_opening_anything() -> None:
    world, writer = three_commits()
    for day in range(2, 9):
        writer.backup(f"day {day}", day * 1000 * SECOND)
        writer.commit(day * 1000 * SECOND + SECOND, 1000 + day)
        full(writer)
    opened: list[int] = []

    def events(path: TimelineHistory, number: int) -> object:
        opened.append(number)
        return world.events(path, number)

    decision = decide(world.view(), at(25), replace(world.knowledge(), events=events))  # type: ignore[arg-type]
    assert stop_of(decision)[2] == 739
    assert set(opened) <= {1, 8}, "the stop's, and the last"


def test_a_stretch_that_does_not_link_to_what_is_before_it_is_not_joined() -> None:
    """Segments 2 to 7 fit to each other, but the first of them does not go on where segment 1 ends."""
    world, writer = three_commits()
    for number in range(2, 8):
        writer.commit((60 + number) * SECOND, 750 + number)
        full(writer)
    real = world.scan

    def scan(path: TimelineHistory, number: int) -> SegmentScan:
        found = real(path, number)
        return replace(found, first_prev=Lsn(0x1234)) if number == 2 else found

    world.scan = scan  # type: ignore[method-assign]
    decision = decide(world.view(), at(65), world.knowledge())
    assert decision.verdict is Verdict.GAP
    assert decision.missing == (Segment(1, 2),)
    assert "does not follow" in decision.reason


def test_an_incremental_backup_is_chosen_and_its_whole_chain_is_counted() -> None:
    world, writer = three_commits()
    start = writer.position
    made = writer.finish_backup("incremental", start, 45 * SECOND)
    world.backups[-1] = replace(made, below=(BackupBelow("full", 700, 300),))
    full(writer)
    decision = ask(world, AtLatest())
    assert decision.backup is not None
    assert decision.backup.id == "incremental"
    found = estimate(decision, {})
    assert found is not None
    assert found.parts[0].bytes == 1000 + 700
    assert decision.backup.stored_in_all == 500 + 300
