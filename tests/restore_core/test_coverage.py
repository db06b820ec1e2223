"""Runs of segments and how far a path reaches, against a model that asks for each segment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.coverage import (
    Run,
    Runs,
    add_run,
    add_segment,
    contains,
    coverage_on_path,
    first_after,
    gap_names,
    gaps,
    lacking,
    segment_on_path,
)
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import Segment, SegmentBytes

MIB = SegmentBytes(1 << 20)

segments = st.builds(Segment, st.integers(1, 4), st.integers(0, 30))
sets = st.lists(segments, max_size=60)


@st.composite
def paths(draw: st.DrawFn) -> TimelineHistory:
    """Timelines ascend, switch points need not; often at a segment's very start or in one segment."""
    timelines = sorted(draw(st.sets(st.integers(1, 4), min_size=1)))
    offsets = st.sampled_from([0, 0x28, MIB // 2, MIB - 8])
    switches = [draw(st.integers(0, 30)) * MIB + draw(offsets) for _ in timelines[1:]]
    forks = [Fork(parent, Lsn(switch)) for parent, switch in zip(timelines, switches, strict=False)]
    return TimelineHistory(timelines[-1], tuple(forks))


def runs_of(present: list[Segment]) -> Runs:
    runs: Runs = ()
    for segment in present:
        runs = add_segment(runs, segment)
    return runs


@given(sets)
def test_runs_hold_exactly_the_segments_that_were_added(present: list[Segment]) -> None:
    runs = runs_of(present)
    held = {Segment(run.timeline, n) for run in runs for n in range(run.first, run.last + 1)}
    assert held == set(present)
    assert all(contains(runs, segment) == (segment in held) for segment in present)


@given(sets, st.integers(1, 4), st.integers(0, 30), st.integers(-1, 30))
def test_what_is_lacking_is_what_was_not_added(
    present: list[Segment], timeline: int, first: int, last: int
) -> None:
    found = lacking(runs_of(present), Run(timeline, first, last))
    wanted = {Segment(timeline, number) for number in range(first, last + 1)} - set(present)
    assert {Segment(run.timeline, n) for run in found for n in range(run.first, run.last + 1)} == wanted
    assert all(run.first <= run.last for run in found)


@given(sets)
def test_runs_of_one_set_have_one_form_whatever_the_order(present: list[Segment]) -> None:
    assert runs_of(present) == runs_of(present[::-1])
    assert list(runs_of(present)) == sorted(runs_of(present))


@given(sets, segments)
def test_a_segment_that_was_not_added_is_not_there(present: list[Segment], asked: Segment) -> None:
    assert contains(runs_of(present), asked) == (asked in present)


@given(sets, st.integers(1, 4), st.integers(0, 30), st.integers(0, 10))
def test_adding_a_run_is_adding_its_segments(present: list[Segment], tli: int, first: int, more: int) -> None:
    span = [Segment(tli, n) for n in range(first, first + more + 1)]
    assert add_run(runs_of(present), Run(tli, first, first + more)) == runs_of([*present, *span])


@given(sets)
def test_gaps_are_the_missing_segments_between_present_ones(present: list[Segment]) -> None:
    missing = {
        Segment(gap.timeline, n) for gap in gaps(runs_of(present)) for n in range(gap.first, gap.last + 1)
    }
    expected = {
        Segment(tli, n)
        for tli in range(1, 5)
        for n in range(31)
        if Segment(tli, n) not in present
        and any(s.timeline == tli and s.number < n for s in present)
        and any(s.timeline == tli and s.number > n for s in present)
    }
    assert missing == expected


def test_gaps_are_named_as_files() -> None:
    runs = (Run(1, 0xFFD, 0xFFE), Run(1, 0x1001, 0x1002), Run(2, 1, 1))
    assert gap_names(runs, MIB) == (("000000010000000000000FFF", "000000010000000100000000"),)


@given(sets, paths(), st.integers(0, 30))
def test_a_path_reaches_as_far_as_asking_for_every_segment_says(
    present: list[Segment], path: TimelineHistory, start: int
) -> None:
    number = start
    while segment_on_path(path, number, MIB) in present:
        number += 1
    reach = coverage_on_path(runs_of(present), path, MIB, start)
    assert reach.missing == segment_on_path(path, number, MIB)
    assert reach.last == (number - 1 if number > start else None)


@given(sets, paths(), st.integers(0, 30))
def test_what_follows_on_a_path_is_found_by_asking_for_every_segment(
    present: list[Segment], path: TimelineHistory, number: int
) -> None:
    later = [segment_on_path(path, n, MIB) for n in range(number + 1, 32)]
    expected = next((segment for segment in later if segment in present), None)
    assert first_after(runs_of(present), path, MIB, number) == expected


def test_a_fork_at_a_segment_start_ends_the_parent_before_it() -> None:
    path = TimelineHistory(2, (Fork(1, Lsn(5 * MIB)),))
    runs = (Run(1, 1, 9), Run(2, 6, 9))
    assert coverage_on_path(runs, path, MIB, 1).missing == Segment(2, 5)


def test_a_fork_inside_a_segment_takes_it_from_the_child() -> None:
    path = TimelineHistory(2, (Fork(1, Lsn(5 * MIB + 0x100)),))
    assert coverage_on_path((Run(1, 1, 9),), path, MIB, 1).missing == Segment(2, 5)
    assert coverage_on_path((Run(1, 1, 4), Run(2, 5, 7)), path, MIB, 1).last == 7
