"""decide() against the naive oracle on random histories, and PostgreSQL's semantics on its answers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.core.branches import known_timelines, path_to
from restore.core.model import AtLatest, AtLsn, AtName, AtTime, AtXid, BaseBackup, Decision, Target, Verdict
from restore.core.planner import decide
from restore.core.windows import windows
from tests.restore_core import oracle
from tests.restore_core.synthetic import SIZE, T0, Rec, World, random_world
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, RestorePoint
from walarchiver.core.segment import Segment

pytestmark = pytest.mark.usefixtures("both_ways")

seeds = st.integers(0, 2**32 - 1)
POSITIVE = (Verdict.REACHABLE, Verdict.IDLE)


def moments(world: World, random: Random, count: int) -> list[CommitTime]:
    """Moments around everything that happened: exactly on it, a microsecond off, and between."""
    known = [b.stop_time for b in world.backups] + [h.time for h in world.horizons]
    known += [rec.fact.time for recs in world.records.values() for rec in recs if isinstance(rec.fact, Event)]
    picked = [random.choice(known) if known else T0 for _ in range(count)]
    return [
        CommitTime(time + random.choice([-1, 0, 0, 1, -1_000_000, 500_000, 7_000_000])) for time in picked
    ]


def agree(world: World, decision: Decision, expected: oracle.Expected, path: TimelineHistory) -> None:
    """The decision is the oracle's, and carried out literally it gives what it promises."""
    if decision.verdict not in POSITIVE:
        assert (decision.backup, decision.stop, decision.wal) == (None, None, None)
        if decision.verdict is Verdict.WRONG_BRANCH:
            assert expected.verdict in (
                Verdict.NOT_PROVEN,
                Verdict.BEFORE_FIRST_BACKUP,
                Verdict.UNKNOWN_TARGET,
            )
        else:
            assert decision.verdict == expected.verdict
        return
    assert decision.verdict == expected.verdict
    assert decision.backup == expected.backup
    assert decision.stop is not None
    assert decision.backup is not None
    assert (decision.stop.lsn, decision.stop.inclusive) == (expected.lsn, expected.inclusive)
    replayed = oracle.recover(world, decision)
    kept = [rec for rec in replayed if isinstance(rec.fact, Event)]
    edge = decision.stop.lsn + decision.stop.inclusive
    on_path = [rec for rec in world.on_path(path) if decision.backup.start_lsn <= rec.lsn < edge]
    assert replayed == on_path, "the shortest path holds the same records as the asked one"
    commits = [rec.fact for rec in kept if isinstance(rec.fact, Event) and rec.fact.kind.is_commit]
    if commits:
        assert decision.stop.last_commit == commits[-1]
    archived = world.replayable(path, decision.backup.start_lsn)
    behind = [e for e in oracle.events_of(archived) if e.lsn >= edge and e.kind.is_commit]
    assert decision.undone_commits == len(behind)


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_a_moment_is_decided_as_the_rule_says_and_recovers_to_exactly_that(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    for time in moments(world, random, 6):
        timeline = random.choice([None, *known_timelines(view)])
        path = path_to(view, view.current_timeline if timeline is None else timeline)
        include = random.random() < 0.3
        policy = "include" if include else "exclude"
        decision = decide(view, AtTime(time), knowledge, timeline=timeline, disputed=policy)  # type: ignore[arg-type]
        if path is None:
            assert decision.verdict is Verdict.GAP
            continue
        expected = oracle.at_time(world, path, time, include=include)
        agree(world, decision, expected, path)
        if decision.verdict in POSITIVE and not include:
            _nothing_newer_and_nothing_left_out(world, decision, path, time)


def _nothing_newer_and_nothing_left_out(
    world: World, decision: Decision, path: TimelineHistory, time: CommitTime
) -> None:
    """The meaning of "as of T", independent of how it was found."""
    replayed = oracle.events_of(oracle.recover(world, decision))
    assert all(event.time <= time for event in replayed)
    assert decision.backup is not None
    behind = [
        event
        for event in oracle.events_of(world.replayable(path, decision.backup.start_lsn))
        if event.lsn >= decision.backup.stop_lsn and event not in replayed
    ]
    left_out = [event for event in behind if event.time <= time]
    if left_out:
        assert decision.disputed is not None
        assert decision.disputed.last == left_out[-1].lsn
        assert decision.disputed.first == behind[0].lsn
        assert decision.disputed.events == len([e for e in behind if e.lsn <= left_out[-1].lsn])
        assert decision.disputed.backward_us > 0
    else:
        assert decision.disputed is None
    assert (decision.ahead is None) is (oracle.ahead(world, decision.backup, path, time) == [])
    if decision.ahead is not None:
        held = oracle.ahead(world, decision.backup, path, time)
        assert (decision.ahead.first, decision.ahead.newest) == (held[0].lsn, max(e.time for e in held))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_position_is_decided_as_the_rule_says(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    path = path_to(view, view.current_timeline)
    if path is None:
        return
    recs = world.on_path(path)
    for _ in range(6 if recs else 0):
        near = random.choice(
            [*(r.lsn for r in recs), *(r.end for r in recs), *(b.stop_lsn for b in world.backups)]
        )
        lsn = Lsn(max(0, near + random.choice([0, 0, 0, 8, -8, 0x28, 24, SIZE])))
        decision = decide(view, AtLsn(lsn), knowledge)
        page = lsn // 8192 * 8192
        settled = page if lsn - page <= (40 if page % SIZE == 0 else 24) else lsn
        agree(world, decision, _at_lsn(world, path, Lsn(settled)), path)


def _at_lsn(world: World, path: TimelineHistory, lsn: Lsn) -> oracle.Expected:
    broken = None
    for backup in oracle.candidates(world, path):
        if backup.stop_lsn > lsn:
            continue
        recs = world.replayable(path, backup.start_lsn)
        if not oracle.is_usable(recs, backup):
            broken = broken or backup
            continue
        at_or_after = [rec for rec in recs if rec.lsn >= lsn]
        if at_or_after:
            return oracle.Expected(Verdict.REACHABLE, backup, at_or_after[0].lsn, False)
        expected = oracle.whole(world, path, backup, recs, Verdict.REACHABLE)
        end = recs[-1].end if expected.inclusive else expected.lsn
        assert end is not None
        if lsn <= end:
            return expected
        return oracle.Expected(oracle.past_end(world, path, recs, backup.start_lsn))
    if broken is not None:
        recs = world.replayable(path, broken.start_lsn)
        return oracle.Expected(oracle.past_end(world, path, recs, broken.start_lsn))
    return oracle.Expected(Verdict.BEFORE_FIRST_BACKUP)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_transactions_names_and_the_newest_state_recover_to_what_they_say(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    path = path_to(view, view.current_timeline)
    if path is None:
        return
    for target in _targets(world, random):
        decision = decide(view, target, knowledge)
        if decision.verdict in POSITIVE:
            agree(world, decision, _as_decided(world, path, target), path)
        elif decision.verdict is not Verdict.WRONG_BRANCH:
            assert decision.verdict == _as_decided(world, path, target).verdict


def _targets(world: World, random: Random) -> list[Target]:
    xids = [event.xid for recs in world.records.values() for event in oracle.events_of(recs)] or [700]
    return [
        AtLatest(),
        AtName(random.choice("abc")),
        AtName("never made"),
        AtXid(random.choice(xids)),
        AtXid(random.choice(xids), before=True),
        AtXid(3),
    ]


def _as_decided(world: World, path: TimelineHistory, target: Target) -> oracle.Expected:
    """The same rules naively: the newest base backup behind whose end the record lies."""
    usable = []
    broken = None
    for backup in oracle.candidates(world, path):
        recs = world.replayable(path, backup.start_lsn)
        if oracle.is_usable(recs, backup):
            usable.append((backup, recs))
        else:
            broken = broken or backup
    if not usable:
        if broken is None:
            return oracle.Expected(Verdict.BEFORE_FIRST_BACKUP)
        recs = world.replayable(path, broken.start_lsn)
        return oracle.Expected(oracle.past_end(world, path, recs, broken.start_lsn))
    seen = {rec.lsn: rec for _, recs in usable for rec in recs}
    match target:
        case AtLatest():
            backup, recs = usable[0]
            return oracle.whole(world, path, backup, recs, Verdict.REACHABLE)
        case AtName(name):
            hits = [r for r in seen.values() if isinstance(r.fact, RestorePoint) and r.fact.name == name]
            inclusive = True
            if len(hits) > 1:
                return oracle.Expected(Verdict.AMBIGUOUS)
        case AtXid(xid, before):
            hits = [
                r
                for r in seen.values()
                if isinstance(r.fact, Event) and r.fact.xid == xid and r.fact.kind.ends_transaction
            ]
            inclusive = not before
        case _:
            pytest.fail("no such target here")
    if not hits:
        return oracle.Expected(Verdict.UNKNOWN_TARGET)
    return _newest_serving(world, path, usable, [hit.lsn for hit in hits], inclusive)


def _newest_serving(
    world: World,
    path: TimelineHistory,
    usable: list[tuple[BaseBackup, list[Rec]]],
    hits: list[Lsn],
    inclusive: bool,
) -> oracle.Expected:
    for backup, recs in usable:
        inside = [lsn for lsn in hits if lsn >= backup.stop_lsn and any(rec.lsn == lsn for rec in recs)]
        if inside:
            return oracle.Expected(Verdict.REACHABLE, backup, max(inside), inclusive)
    for backup in oracle.candidates(world, path):
        recs = world.replayable(path, backup.start_lsn)
        if not oracle.is_usable(recs, backup) and backup.stop_lsn <= max(hits):
            return oracle.Expected(oracle.past_end(world, path, recs, backup.start_lsn))
    return oracle.Expected(Verdict.BEFORE_FIRST_BACKUP)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_the_nearest_moments_of_a_refusal_can_be_restored(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    for time in moments(world, random, 4):
        decision = decide(view, AtTime(time), knowledge)
        near = decision.nearest
        if decision.verdict in POSITIVE:
            continue
        for moment in (near.before, near.after):
            if moment is not None:
                assert decide(view, AtTime(moment), knowledge).verdict in POSITIVE
        assert near.before is None or near.before <= time
        assert near.after is None or near.after >= time


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_every_moment_of_a_window_can_be_restored(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    for window in windows(view, knowledge):
        if window.latest is None:
            continue
        span = window.latest - window.earliest
        for time in (window.earliest, window.latest, window.earliest + random.randint(0, span)):
            assert decide(view, AtTime(CommitTime(time)), knowledge).verdict in POSITIVE


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_without_its_last_segment_the_planned_recovery_would_fail(seed: int) -> None:
    """The list of files is exact: the last one is needed."""
    random = Random(seed)
    world = random_world(random)
    decision = decide(world.view(), AtLatest(), world.knowledge())
    if decision.wal is None:
        return
    last = Segment(
        decision.path.timeline_of_segment(decision.wal.last.number, SIZE), decision.wal.last.number
    )
    assert last == decision.wal.last
    oracle.recover(world, decision)
    world.present.discard(last)
    with pytest.raises(AssertionError):
        oracle.recover(world, decision)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_the_nearest_moments_are_the_nearest_of_all_windows(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view, knowledge = world.view(), world.knowledge()
    proven = [(one.earliest, one.latest) for one in windows(view, knowledge) if one.latest is not None]
    for time in moments(world, random, 4):
        decision = decide(view, AtTime(time), knowledge)
        if decision.verdict in POSITIVE:
            continue
        before = max((min(latest, time) for earliest, latest in proven if earliest <= time), default=None)
        after = min((max(earliest, time) for earliest, latest in proven if latest >= time), default=None)
        assert (decision.nearest.before, decision.nearest.after) == (before, after)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_with_the_index_every_answer_is_the_same_word_for_word(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view = world.view()
    plain, index = world.knowledge(indexed=False), world.knowledge(indexed=True)
    found = windows(view, plain)
    assert windows(view, index) == found
    targets: list[Target] = [AtTime(time) for time in moments(world, random, 4)]
    targets += [AtLsn(backup.stop_lsn) for backup in world.backups[:2]]
    for target in (*targets, *_targets(world, random)):
        for policy in ("exclude", "include"):
            decision = decide(view, target, plain, disputed=policy)
            assert decide(view, target, index, disputed=policy) == decision
