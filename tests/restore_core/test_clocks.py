"""What clocks prove and disprove: samples, checkpoints, and clocks that were set forwards and backwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from restore.core.model import (
    Ahead,
    AtLatest,
    Verdict,
)
from restore.core.planner import decide
from restore.core.scanindex import ListedSamples
from tests.restore_core.scenes import ask, at, full, stop_of, three_commits
from tests.restore_core.synthetic import SECOND, SIZE, T0, new_world
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment

pytestmark = pytest.mark.usefixtures("both_ways")


def test_an_idle_hour_is_reachable_up_to_the_sample_less_the_margin() -> None:
    world, _ = three_commits()
    assert ask(world, at(59)).verdict is Verdict.IDLE
    refused = ask(world, at(59.000001))
    assert refused.verdict is Verdict.NOT_PROVEN
    assert refused.horizon == T0 + 59 * SECOND
    assert refused.nearest.before == T0 + 59 * SECOND
    assert "2026-" in refused.reason


def test_a_sample_behind_the_next_page_header_proves_the_segment_that_ended() -> None:
    """The insert position of an idle server after a switch is 40 bytes past the border."""
    world, writer = three_commits()
    assert writer.position % SIZE == 0x28
    assert ask(world, at(50)).verdict is Verdict.IDLE


def test_a_sample_ahead_of_the_archive_proves_nothing() -> None:
    world, writer = three_commits()
    world.horizons.clear()
    writer.commit(50 * SECOND, 742)
    writer.sample(60 * SECOND)
    refused = ask(world, at(55))
    assert refused.verdict is Verdict.NOT_PROVEN
    assert refused.horizon == T0 + 40 * SECOND


def test_a_checkpoint_proves_its_whole_second() -> None:
    world, writer = new_world()
    writer.backup("first", 10 * SECOND)
    writer.commit(20 * SECOND, 739)
    writer.checkpoint(30 * SECOND + 700_000)
    full(writer)
    assert ask(world, at(30)).verdict is Verdict.IDLE
    assert ask(world, at(30.5)).verdict is Verdict.NOT_PROVEN


def test_clock_steps_are_reported_and_the_policy_decides() -> None:
    """The clock was an hour ahead for 740 and 741; 742 and 743 are in true time again."""
    world, writer = new_world()
    writer.backup("first", SECOND)
    writer.commit(10 * SECOND, 739)
    writer.commit(3610 * SECOND, 740)
    writer.commit(3611 * SECOND, 741)
    writer.commit(12 * SECOND, 742)
    writer.commit(20 * SECOND, 743)
    full(writer)
    exclude = ask(world, at(15))
    assert stop_of(exclude)[1:] == (False, 739)
    assert exclude.disputed is not None
    assert exclude.disputed.events == 3
    assert exclude.disputed.backward_us == 3599 * SECOND
    assert exclude.undone_commits == 4
    include = decide(world.view(), at(15), world.knowledge(), disputed="include")
    assert stop_of(include)[1:] == (True, 742)
    assert include.disputed == exclude.disputed


class _Unread(ListedSamples):
    """Samples that nobody may go through from one end to the other."""

    def __len__(self) -> int:
        raise AssertionError("every sample was read")

    def __getitem__(self, index: object) -> object:
        raise AssertionError("every sample was read")


def test_a_plan_asks_for_the_samples_that_can_matter_only() -> None:
    world, writer = three_commits()
    for second in range(61, 90):
        writer.sample(second * SECOND)
    unread = _Unread(world.horizons)
    view = replace(world.view(), horizons=unread)  # type: ignore[arg-type]
    decision = decide(view, at(88), replace(world.knowledge(), samples=unread))
    assert decision.verdict is Verdict.IDLE
    assert decision.horizon == T0 + 88 * SECOND


def test_a_sample_counts_when_a_later_event_is_older_by_less_than_the_margin() -> None:
    world, writer = new_world()
    writer.backup("first", 10 * SECOND)
    writer.sample(33 * SECOND + 500_000)
    writer.sample(32 * SECOND + 500_000)
    writer.sample(32 * SECOND + 400_000)
    writer.commit(31 * SECOND, 739)
    full(writer)
    assert ask(world, at(31.5)).horizon == T0 + 31 * SECOND + 500_000
    assert ask(world, at(31.5)).verdict is Verdict.IDLE
    assert ask(world, at(31.6)).verdict is Verdict.NOT_PROVEN


def test_without_any_event_the_newest_sample_that_is_covered_counts() -> None:
    world, writer = new_world()
    writer.sample(20 * SECOND)
    writer.backup("first", 10 * SECOND)
    writer.sample(15 * SECOND)
    full(writer)
    writer.write()
    writer.sample(50 * SECOND)
    assert ask(world, at(19)).horizon == T0 + 19 * SECOND
    assert ask(world, at(19)).verdict is Verdict.IDLE
    assert ask(world, at(20)).verdict is Verdict.NOT_PROVEN


def test_events_newer_than_the_moment_that_the_base_backup_holds_already_are_told() -> None:
    """The clock was an hour ahead for 740 and 741, and right again before the second base backup."""
    world, writer = new_world()
    writer.backup("first", SECOND)
    writer.commit(10 * SECOND, 739)
    full(writer)
    ahead = writer.commit(3610 * SECOND, 740)
    writer.commit(3611 * SECOND, 741)
    full(writer)
    writer.backup("second", 20 * SECOND)
    writer.commit(30 * SECOND, 742)
    writer.commit(50 * SECOND, 743)
    full(writer)
    decision = ask(world, at(40))
    assert decision.backup is not None
    assert decision.backup.id == "second"
    assert stop_of(decision)[1:] == (False, 742)
    assert decision.disputed is None
    assert decision.ahead == Ahead(ahead.lsn, CommitTime(T0 + 3611 * SECOND))
    assert any("the clock was set back behind them" in sentence for sentence in decision.explained)
    assert ask(world, AtLatest()).ahead is None
    in_the_first = ask(world, at(15))
    assert in_the_first.backup is not None
    assert (in_the_first.backup.id, in_the_first.ahead) == ("first", None)


def test_what_lies_before_a_hole_is_not_told_of_behind_it() -> None:
    world, writer = new_world()
    writer.backup("first", SECOND)
    writer.commit(3610 * SECOND, 740)
    full(writer)
    full(writer)
    writer.backup("second", 20 * SECOND)
    writer.commit(30 * SECOND, 742)
    full(writer)
    assert ask(world, at(25)).ahead is not None
    world.present.remove(Segment(1, 2))
    assert ask(world, at(25)).ahead is None
