"""What fetch may answer: tables of requests, and recoveries played against the policy."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.core.model import AtLatest, Stop, Verdict
from restore.core.plan import Plan
from restore.core.planner import decide
from restore.core.policy import Absent, Answer, Doubt, FetchFacts, Serve, answer
from tests.restore_core.synthetic import SIZE, World, random_world
from tests.restore_core.test_plan import plan_of
from walarchiver.core.history import Fork, TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import HistoryFile, Segment, SegmentFile, parse_wal_file

FORK = TimelineHistory(2, (Fork(1, Lsn(5 * SIZE + 0x100)),))
"""Timeline 2 leaves 1 inside segment 5."""

PLAN = Plan(
    id="p-1",
    cluster="main",
    system=1,
    major=15,
    segment_size=SIZE,
    repository="r",
    path=FORK,
    first=3,
    last=7,
    stop=Stop(Lsn(7 * SIZE + 0x100), True, 2, None, None),
    backup="b",
    requested="latest",
    made_at=0,
    verdict=Verdict.REACHABLE,
    keys=(),
    settings=(),
    ledger=7,
)


def facts(
    *, recorded: bool = False, head: bool = True, last: dict[int, int] | None = None, history: bool = True
) -> FetchFacts:
    return FetchFacts(
        recorded, head, {1: 9, 2: 8} if last is None else last, {2: FORK} if history else {}, SIZE
    )


def test_what_was_replaced_after_the_plan_is_doubt_and_without_a_plan_nothing() -> None:
    changed = replace(facts(recorded=True), replaced=True)
    for file in (SegmentFile(Segment(1, 3)), HistoryFile(2)):
        assert isinstance(answer(PLAN, file, changed), Doubt)
        assert answer(None, file, changed) == Serve()


@pytest.mark.parametrize(
    ("timeline", "number", "recorded", "expected"),
    [
        (1, 3, True, Serve()),
        (1, 3, False, Doubt),
        (1, 4, True, Serve()),
        (2, 5, True, Serve()),
        (2, 5, False, Doubt),
        (1, 5, True, Doubt),  # the parent's copy of the child's address
        (1, 5, False, Doubt),
        (1, 7, True, Doubt),
        (2, 7, True, Serve()),
        (2, 8, True, Serve(read_ahead=True)),
        (2, 8, False, Absent),
        (1, 8, True, Absent),  # asked after the child's: never another history
        (1, 8, False, Absent),
        (2, 4, False, Absent),  # begins later
        (2, 4, True, Doubt),
        (3, 6, False, Doubt),  # off the path
        (3, 6, True, Doubt),
        (3, 9, False, Doubt),
        (1, 2, True, Serve()),
        (1, 2, False, Doubt),
    ],
)
def test_with_a_plan_only_what_it_allows_is_served(
    timeline: int, number: int, recorded: bool, expected: Answer | type[Answer]
) -> None:
    got = answer(PLAN, SegmentFile(Segment(timeline, number)), facts(recorded=recorded, head=False))
    assert got == expected or type(got) is expected


@pytest.mark.parametrize(
    ("timeline", "number", "given_facts", "expected"),
    [
        (1, 4, facts(recorded=True), Serve),
        (1, 4, facts(), Doubt),  # a hole: 1 has later ones
        (2, 9, facts(), Absent),  # the end of 2
        (2, 9, facts(head=False), Doubt),
        (1, 10, facts(), Absent),
        (1, 5, facts(last={1: 4, 2: 8}), Absent),  # 1 ends there; path 2 reads its own 5
        (1, 4, facts(last={1: 3, 2: 8}), Doubt),  # path 2 needs 1's segment 4
        (2, 5, facts(last={1: 9, 2: 8}), Doubt),  # the hole at the fork
        (2, 5, facts(last={1: 9}), Absent),  # the child has nothing yet
        (1, 5, facts(last={1: 4, 2: 8}, history=False), Doubt),  # whose child is 2?
        (2, 4, facts(), Absent),  # no path reads 2 before its begin
        (3, 2, facts(last={3: 4}), Doubt),
        (3, 5, facts(last={3: 4}), Absent),
    ],
)
def test_without_a_plan_a_hole_is_doubt_and_the_end_is_absent(
    timeline: int, number: int, given_facts: FetchFacts, expected: type[Answer]
) -> None:
    assert type(answer(None, SegmentFile(Segment(timeline, number)), given_facts)) is expected


@pytest.mark.parametrize(
    ("plan", "timeline", "given_facts", "expected"),
    [
        (PLAN, 2, facts(recorded=True, head=False), Serve),
        (PLAN, 2, facts(last={}), Doubt),  # the plan's own timeline
        (PLAN, 3, facts(), Absent),  # the free number
        (PLAN, 3, facts(head=False), Doubt),
        (PLAN, 3, facts(recorded=True), Serve),  # outside the plan, still told honestly
        (PLAN, 3, facts(last={3: 9}), Absent),  # lost for good: the plan can be carried out all the same
        (None, 2, facts(last={1: 9}), Absent),
        (None, 2, facts(), Doubt),
    ],
)
def test_histories_are_answered_from_the_head_plan_or_not(
    plan: Plan | None, timeline: int, given_facts: FetchFacts, expected: type[Answer]
) -> None:
    assert type(answer(plan, HistoryFile(timeline), given_facts)) is expected


@pytest.mark.parametrize("plan", [None, PLAN])
def test_partial_segments_are_refused_and_backup_labels_are_never_needed(plan: Plan | None) -> None:
    partial = parse_wal_file("000000010000000000000005.partial", SIZE)
    label = parse_wal_file("000000010000000000000005.00000028.backup", SIZE)
    assert type(answer(plan, partial, facts(recorded=True))) is Doubt
    assert answer(plan, label, facts(recorded=True)) == Serve()
    assert type(answer(plan, label, facts())) is Absent


def _facts_of(world: World, segment: Segment) -> FetchFacts:
    last: dict[int, int] = {}
    for present in world.present:
        last[present.timeline] = max(last.get(present.timeline, 0), present.number)
    return FetchFacts(segment in world.present, True, last, dict(world.histories), SIZE)


def _request(world: World, plan: Plan | None, path: TimelineHistory, number: int) -> Segment | None:
    """PostgreSQL's XLogFileReadAnyTLI: newest timeline first; RuntimeError stands for exit 200."""
    for timeline in reversed(path.path):
        if number < path.begin(timeline) // SIZE:
            continue
        segment = Segment(timeline, number)
        match answer(plan, SegmentFile(segment), _facts_of(world, segment)):
            case Serve():
                return segment
            case Doubt():
                raise RuntimeError(segment)
    return None


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_recovery_under_a_plan_gets_exactly_the_planned_files_and_never_another_history(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    decision = decide(world.view(), AtLatest(), world.knowledge())
    if decision.wal is None:
        return
    plan = plan_of(world, decision)
    for number in range(plan.first, plan.last + 1):
        assert _request(world, plan, plan.path, number) == plan.segment(number)
    for number in range(plan.last + 1, plan.last + 4):
        got = _request(world, plan, plan.path, number)
        assert got in (None, plan.segment(number))
    lost = plan.segment(random.randint(plan.first, plan.last))
    world.present.discard(lost)
    with pytest.raises(RuntimeError):
        _request(world, plan, plan.path, lost.number)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_without_a_plan_recovery_never_ends_before_a_later_segment_of_its_path(seed: int) -> None:
    """Read along a path until "absent": nothing of that path may be recorded behind that point."""
    random = Random(seed)
    world = random_world(random)
    view = world.view()
    path = TimelineHistory(1) if not world.histories else random.choice(list(world.histories.values()))
    number = random.randint(1, 6)
    try:
        while _request(world, None, path, number) is not None:
            number += 1
    except RuntimeError:
        return
    later = [n for n in range(number + 1, 400) if world.file(path, n) in world.present]
    assert not later, (path, number, view.runs)
