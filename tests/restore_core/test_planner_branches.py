"""Timelines: which branch a target lies on, and whose files serve it."""

from __future__ import annotations

import pytest

from restore.core.branches import diverge
from restore.core.model import AtXid, Verdict
from tests.restore_core.scenes import ask, at, failover, full, stop_of
from tests.restore_core.synthetic import SECOND
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import Segment

pytestmark = pytest.mark.usefixtures("both_ways")


def test_after_a_failover_the_default_follows_production_and_the_other_branch_is_shown() -> None:
    world, _, _ = failover()
    decision = ask(world, at(85))
    assert stop_of(decision)[2] == 743
    assert decision.path.timeline == 2
    assert decision.wal is not None
    assert decision.wal.last == Segment(2, 2)
    assert any(sentence.startswith("on timeline 1 ") and "900" in sentence for sentence in decision.explained)
    old = ask(world, at(85), timeline=1)
    assert stop_of(old)[2] == 900
    assert old.wal is not None
    assert old.wal.last == Segment(1, 2)


def test_a_moment_before_the_fork_takes_the_parent_as_target_timeline() -> None:
    """PostgreSQL would otherwise write a history that descends from a timeline not yet begun."""
    world, _, _ = failover()
    decision = ask(world, at(65))
    assert decision.path == TimelineHistory(1)
    assert stop_of(decision)[2] == 741


def test_the_childs_copy_serves_when_the_parent_left_only_a_partial() -> None:
    world, _, _ = failover()
    world.present.remove(Segment(1, 2))
    decision = ask(world, at(65))
    assert decision.path.timeline == 2
    assert decision.stop is not None
    assert decision.stop.timeline == 1
    assert decision.wal is not None
    assert decision.wal.last == Segment(2, 2)


def test_a_missing_first_segment_of_the_child_is_a_gap_although_the_parents_copy_is_there() -> None:
    world, _, new = failover()
    new.commit(100 * SECOND, 745)
    full(new)
    world.present.remove(Segment(2, 2))
    decision = ask(world, at(85))
    assert decision.verdict is Verdict.GAP
    assert decision.missing == (Segment(2, 2),)


def test_a_transaction_of_the_other_branch_is_named_with_its_timeline() -> None:
    world, _, _ = failover()
    decision = ask(world, AtXid(901))
    assert decision.verdict is Verdict.WRONG_BRANCH
    assert "--timeline 1" in decision.reason
    assert ask(world, AtXid(901), timeline=1).verdict is Verdict.REACHABLE


def test_a_timeline_that_does_not_exist_or_has_no_history_is_refused() -> None:
    world, _, _ = failover()
    assert ask(world, at(65), timeline=7).verdict is Verdict.WRONG_BRANCH
    del world.histories[2]
    lost = ask(world, at(65))
    assert lost.verdict is Verdict.GAP
    assert "00000002.history" in lost.reason


def test_a_backup_taken_behind_the_fork_on_the_old_branch_does_not_serve_the_new_one() -> None:
    world, old, new = failover()
    old.backup("stray", 200 * SECOND)
    full(old)
    new.commit(210 * SECOND, 750)
    full(new)
    decision = ask(world, at(205))
    assert decision.backup is not None
    assert decision.backup.id == "first"


def test_without_the_parents_history_its_records_are_reached_on_the_childs_path() -> None:
    """The stop lies on timeline 2, whose history file was lost; 3's own names it as a parent."""
    world, _, new = failover()
    third = new.fork(3)
    world.current = 3
    third.commit(120 * SECOND, 760)
    full(third)
    assert ask(world, at(85)).path.timeline == 2
    del world.histories[2]
    decision = ask(world, at(85))
    assert stop_of(decision)[2] == 743
    assert decision.path.timeline == 3
    assert decision.stop is not None
    assert decision.stop.timeline == 2


def test_paths_part_where_the_first_of_them_leaves_their_common_timeline() -> None:
    first = TimelineHistory(3, (Fork(1, Lsn(100)), Fork(2, Lsn(200))))
    other = TimelineHistory(4, (Fork(1, Lsn(100)), Fork(2, Lsn(150))))
    assert diverge(first, first) is None
    assert diverge(first, other) == 150
    assert diverge(first, TimelineHistory(1)) == 100
    assert diverge(first, TimelineHistory(5, (Fork(1, Lsn(40)), Fork(2, Lsn(200))))) == 40
    assert diverge(first, TimelineHistory(9, (Fork(7, Lsn(100)),))) == 0
