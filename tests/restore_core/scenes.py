"""Small worlds that several tests start from, and the words to ask about them."""

from __future__ import annotations

from restore.core.model import AtTime, Decision, Target
from restore.core.planner import decide
from tests.restore_core.synthetic import SECOND, T0, World, Writer, new_world
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment


def at(seconds: float) -> AtTime:
    return AtTime(CommitTime(T0 + round(seconds * SECOND)))


def ask(world: World, target: Target, *, timeline: int | None = None) -> Decision:
    return decide(world.view(), target, world.knowledge(), timeline=timeline)


def full(writer: Writer) -> None:
    """End the current segment and archive all that is full."""
    writer.switch()
    writer.archive()


def three_commits() -> tuple[World, Writer]:
    """A backup at 10 s, commits 739, 740, 741 at 20, 30, 40 s, archived, sampled at 60 s."""
    world, writer = new_world()
    writer.backup("first", 10 * SECOND)
    for xid, second in ((739, 20), (740, 30), (741, 40)):
        writer.commit(second * SECOND, xid)
    full(writer)
    writer.sample(60 * SECOND)
    return world, writer


def stop_of(decision: Decision) -> tuple[int, bool, int | None]:
    assert decision.stop is not None, decision.reason
    commit = decision.stop.last_commit
    return decision.stop.lsn, decision.stop.inclusive, None if commit is None else commit.xid


def gap_world() -> World:
    """Segments 1 to 5, the third missing; commits at 10, 20, … s; a second backup in segment 4."""
    world, writer = new_world()
    writer.backup("first", SECOND)
    for number in range(1, 6):
        if number == 4:
            writer.backup("second", 35 * SECOND)
        writer.commit(number * 10 * SECOND, 700 + number)
        full(writer)
    world.present.remove(Segment(1, 3))
    return world


def failover() -> tuple[World, Writer, Writer]:
    """Timeline 2 left 1 inside segment 2; the old primary wrote on; production is on 2."""
    world, old = three_commits()
    old.commit(70 * SECOND, 742)
    new = old.fork(2)
    world.current = 2
    old.commit(80 * SECOND, 900)
    old.commit(90 * SECOND, 901)
    full(old)
    new.commit(81 * SECOND, 743)
    new.commit(91 * SECOND, 744)
    full(new)
    return world, old, new
