"""Long stretches without a scan behind the stop are left closed, and the stop is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restore.core import unscanned
from restore.core.model import AtLatest, AtLsn, AtTime, Decision, Target, Verdict, WalKnowledge
from restore.core.planner import decide
from tests.restore_core import synthetic
from tests.restore_core.scenes import at, full, three_commits
from tests.restore_core.synthetic import SECOND, SIZE, SYSTEM, World, random_world
from tests.restore_core.test_planner_model import moments
from walarchiver.catalog import Catalog
from walarchiver.chronology import put
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Event, SegmentScan
from walarchiver.projecting import origin_of


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment without a scan is a stretch, and every other one has none."""
    monkeypatch.setattr(unscanned, "LONG", 1)
    monkeypatch.setattr(synthetic, "UNSCANNED", 2)


def core(decision: Decision) -> tuple[object, ...]:
    """All that does not tell of what is behind the stop."""
    told = (decision.verdict, decision.reason, decision.path, decision.backup, decision.stop, decision.wal)
    return (*told, decision.limits, decision.prepared_open)


@given(st.integers(0, 2**32 - 1))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.usefixtures("short_stretches")
def test_the_stop_is_the_same_whatever_is_left_closed(seed: int) -> None:
    random = Random(seed)
    world = random_world(random)
    view = world.view()
    plain, index = world.knowledge(indexed=False), world.knowledge(indexed=True)
    targets: list[Target] = [AtTime(time) for time in moments(world, random, 6)]
    lsns = [rec.lsn for recs in world.records.values() for rec in recs]
    targets += [AtLsn(Lsn(random.choice(lsns) + random.choice([0, 8]))) for _ in range(3)]
    for target in (*targets, AtLatest()):
        whole, quick = decide(view, target, plain), decide(view, target, index)
        assert core(quick) == core(whole)
        if not quick.unseen_segments:
            assert quick == whole
        else:
            assert quick.undone_commits <= whole.undone_commits
            assert f"{quick.unseen_segments:,} segments behind the stop" in quick.explained[-1]


def archived_without_scans(scanned: int, count: int) -> tuple[World, WalKnowledge, set[int]]:
    """`count` segments with a commit each, of which the first ones have scans; and which were opened."""
    world, writer = three_commits()
    for number in range(2, count + 1):
        writer.commit((60 + number) * SECOND, 800 + number)
        full(writer)
    catalog = Catalog(None)
    path = TimelineHistory(1)
    for number in range(1, scanned + 1):
        put(catalog._db, world.scan(path, number), origin_of(SYSTEM, SIZE))
    opened: set[int] = set()
    plain = world.knowledge(indexed=False)

    def scan(path: TimelineHistory, number: int) -> SegmentScan:
        opened.add(number)
        return plain.scan(path, number)

    def events(path: TimelineHistory, number: int) -> Sequence[Event]:
        opened.add(number)
        return plain.events(path, number)

    return world, replace(plain, scan=scan, events=events, index=catalog.chronology(SYSTEM, SIZE)), opened


def test_a_plan_for_a_moment_before_such_a_stretch_opens_none_of_it() -> None:
    world, knowledge, opened = archived_without_scans(5, 5 + unscanned.LONG)
    decision = decide(world.view(), at(63), knowledge)
    assert decision.stop is not None
    assert decision.stop.stop_event is not None
    assert decision.stop.stop_event.xid == 804
    assert max(opened) <= 5
    assert (decision.unseen_segments, decision.undone_commits) == (unscanned.LONG, 2)
    assert "from 000000010000000000000006 on, were not looked at" in decision.explained[-1]


def test_a_moment_inside_it_and_a_short_one_are_looked_at_whole() -> None:
    for count, second in ((unscanned.LONG, 70), (unscanned.LONG - 1, 63)):
        world, knowledge, opened = archived_without_scans(5, 5 + count)
        decision = decide(world.view(), at(second), knowledge)
        assert decision.verdict is Verdict.REACHABLE
        assert decision.unseen_segments == 0
        assert max(opened) == 5 + count
