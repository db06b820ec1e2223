"""What ends a walk, file by file: what PostgreSQL would stumble over ends it, what it passes does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from restore.core.model import AtLatest, Verdict, WalKnowledge
from restore.core.planner import decide
from restore.core.walk import Branch, EndKind
from restore.core.windows import latest_restorable, nearest_to_time, windows
from tests.restore_core.scenes import full, three_commits
from tests.restore_core.synthetic import SECOND, SIZE, T0, World, Writer
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment


def five() -> tuple[World, Writer]:
    """Segments 1 to 5, a commit in each."""
    world, writer = three_commits()
    for number in range(2, 6):
        writer.commit((60 + number) * SECOND, 800 + number)
        full(writer)
    return world, writer


def knowing(world: World, changed: Mapping[int, SegmentScan]) -> WalKnowledge:
    plain = world.knowledge()

    def scan(path: TimelineHistory, number: int) -> SegmentScan:
        return changed[number] if number in changed else plain.scan(path, number)

    return replace(plain, scan=scan)


def end_of(world: World, changed: Mapping[int, SegmentScan]) -> tuple[EndKind, int, str]:
    branch = Branch(world.view(), TimelineHistory(1), knowing(world, changed))
    finish = branch.walk(world.backups[0]).finish
    return finish.kind, finish.segment.number, finish.detail


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"system": 5}, (EndKind.DAMAGE, 3, "it belongs to the cluster with system identifier 5")),
        (
            {"ending": Ending.ZERO, "switched": False},
            (EndKind.DAMAGE, 3, "zeros where a record should start"),
        ),
        ({"ending": Ending.ZERO, "switched": True}, (EndKind.ARCHIVE, 6, "")),
        ({"ending": Ending.BAD, "problem": "checksum"}, (EndKind.DAMAGE, 3, "checksum")),
        (
            {"first_prev": Lsn(8)},
            (EndKind.DAMAGE, 3, "its first record does not follow the last record before it"),
        ),
        (
            {"ending": Ending.OPEN},
            (EndKind.DAMAGE, 4, "it does not complete the record that it should carry on"),
        ),
    ],
)
def test_a_segment_that_does_not_fit_ends_the_walk_before_or_in_it(
    change: dict[str, object], ends: tuple[EndKind, int, str]
) -> None:
    world, _ = five()
    third = world.scan(TimelineHistory(1), 3)
    assert end_of(world, {3: replace(third, **change)}) == ends  # type: ignore[arg-type]


def test_a_record_that_was_torn_and_overwritten_ends_nothing() -> None:
    world, _ = five()
    third, fourth = (world.scan(TimelineHistory(1), number) for number in (3, 4))
    torn = replace(third, ending=Ending.OPEN)
    assert end_of(world, {3: torn, 4: replace(fourth, overwritten=(Lsn(3 * SIZE + 64),))})[:2] == (
        EndKind.ARCHIVE,
        6,
    )
    elsewhere = replace(fourth, overwritten=(Lsn(3 * SIZE + 64),), first_prev=Lsn(8))
    assert end_of(world, {3: torn, 4: elsewhere})[:2] == (EndKind.DAMAGE, 4)


def test_a_record_over_several_files_ends_where_one_of_them_is_missing() -> None:
    world, _ = five()
    third, fourth = (world.scan(TimelineHistory(1), number) for number in (3, 4))
    middle = replace(fourth, first=None, first_prev=None, last=None)
    spans = {3: replace(third, ending=Ending.OPEN), 4: middle}
    assert end_of(world, spans)[:2] == (EndKind.DAMAGE, 5)
    world.present.remove(Segment(1, 5))
    assert end_of(world, spans)[:2] == (EndKind.ARCHIVE, 5)
    world.present.add(Segment(1, 6))
    assert end_of(world, spans)[:2] == (EndKind.HOLE, 5)


# --- windows ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_ways")
def test_while_a_newer_base_backup_proves_nothing_the_older_one_says_what_is_restorable() -> None:
    world, writer = three_commits()
    writer.backup("second", 100 * SECOND + 1)  # its checkpoint says 100 s, its end is a microsecond later
    full(writer)
    found = latest_restorable(world.view(), world.knowledge())
    assert found is not None
    assert (found.backup.id, found.latest is not None) == ("first", True)
    world.backups = world.backups[1:]
    only = latest_restorable(world.view(), world.knowledge())
    assert only is not None
    assert (only.backup.id, only.latest) == ("second", None)
    world.backups = []
    assert latest_restorable(world.view(), world.knowledge()) is None


def test_without_the_current_timelines_history_nothing_is_restorable() -> None:
    world, _ = three_commits()
    world.current = 2
    assert latest_restorable(world.view(), world.knowledge()) is None
    assert windows(world.view(), world.knowledge()) == []
    assert decide(world.view(), AtLatest(), world.knowledge()).verdict is Verdict.GAP


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("second_at", [100, 5])
def test_the_nearest_moments_are_those_of_all_windows(second_at: int) -> None:
    """Base backups in the order of their times, and (at 5 s) after a clock that was set back."""
    world, writer = three_commits()
    writer.backup("second", second_at * SECOND)
    writer.commit((second_at + 7) * SECOND, 900)
    full(writer)
    writer.sample((second_at + 20) * SECOND)
    view, knowledge = world.view(), world.knowledge()
    found = [one for one in windows(view, knowledge) if one.latest is not None]
    for second in range(0, 140, 3):
        time = CommitTime(T0 + second * SECOND)
        near = nearest_to_time(Branch(view, TimelineHistory(1), knowledge), time)
        inside = [one for one in found if one.latest is not None and one.earliest <= time <= one.latest]
        after = [max(one.earliest, time) for one in found if one.latest is not None and one.latest >= time]
        assert near.after == (time if inside else min(after, default=None)), second
        before = [min(one.latest, time) for one in found if one.latest is not None and one.earliest <= time]
        assert near.before == (max(before, default=None)), second
