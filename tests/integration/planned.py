"""What plans promise is what PostgreSQL does: stop, transactions and rows, for every kind of target."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import psycopg

from restore.core.model import AtLatest, AtLsn, AtName, AtTime, AtXid, Decision, Target, View
from restore.core.planner import decide
from restore.planning import view_of
from restore.walreader import WalReader
from tests.integration.moments import History, live_through
from tests.integration.oracle import Remembered
from tests.integration.scene import Scene, Scenes, instant
from tests.integration.stepwise import Stepwise, stepwise
from walarchiver.assembly import Archive
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import CommitTime, format_postgres
from walarchiver.core.scan import Event

SECOND_US = 1_000_000
POINTS = ("first", "second")


class Ended(Protocol):
    """An event, whoever tells of it."""

    @property
    def lsn(self) -> int: ...
    @property
    def xid(self) -> int: ...
    @property
    def is_commit(self) -> bool: ...


@dataclass
class Planner:
    """Plans in this process, so that a hundred of them cost no interpreter starts."""

    archive: Archive
    view: View
    reader: WalReader

    def plan(self, target: Target) -> Decision:
        return decide(self.view, target, self.reader.knowledge())

    def events(self) -> list[Event]:
        """Every event of the only timeline, in WAL order."""
        path = self.view.histories.get(1) or self.plan(AtLatest()).path
        (run,) = self.view.runs
        return [
            event for number in range(run.first, run.last + 1) for event in self.reader.events(path, number)
        ]


def archived(scenes: Scenes, major: int, *, seed: int, commits: int) -> History:
    """A base backup and some work behind it, all archived; restore points at its end."""
    history = live_through(scenes, major, seed=seed, commits=commits)
    with psycopg.connect(history.scene.cluster.dsn(), autocommit=True) as sql:
        for name in POINTS:
            sql.execute("SELECT pg_create_restore_point(%s)", (name,))
            sql.execute("INSERT INTO note (client, text) VALUES (99, %s)", (f"after {name}",))
            sql.execute("SELECT pg_switch_wal()")
    history.scene.archive_all()
    return history


@contextmanager
def planner_of(scene: Scene) -> Iterator[Planner]:
    """The planner of an empty machine."""
    archive = scene.open()
    state = archive.ledger.refresh()
    view = view_of(archive.catalog, archive.cluster, state.next_seq)
    reader = WalReader(
        repository=archive.repository,
        system=archive.system,
        catalog=archive.catalog,
        segment_size=archive.segment_size,
        kept=64,
    )
    try:
        yield Planner(archive, view, reader)
    finally:
        reader.close()


def targets_of(
    history: History, events: list[Event], started: CommitTime, chance: random.Random, count: int
) -> list[Target]:
    """Targets of every kind behind the base backup, most of them moments."""
    times = history.oracle.times
    commits = [event for event in events if event.kind.is_commit and event.time > started]
    known = [event for event in commits if event.xid in times]
    first, last = min(event.time for event in known), max(event.time for event in known)
    kinds: list[Callable[[], Target]] = [
        lambda: AtTime(CommitTime(chance.randint(first, last))),
        lambda: AtTime(CommitTime(chance.randint(first // SECOND_US + 1, last // SECOND_US) * SECOND_US)),
        lambda: AtTime(CommitTime(chance.choice(known).time + chance.choice((-1, 0, 1)))),
        lambda: AtXid(chance.choice(known).xid),
        lambda: AtXid(chance.choice(known).xid, before=True),
        lambda: AtXid(chance.choice([e for e in events if e.kind.value == "abort" and e.time > started]).xid),
        lambda: AtLsn(Lsn(chance.randint(known[0].lsn, known[-1].lsn))),
    ]
    found: list[Target] = [AtLatest(), *(AtName(name) for name in POINTS)]
    while len(found) < count:
        found.append(kinds[len(found) % len(kinds)]())
    return found


def check(
    oracle: Remembered,
    steps: Stepwise,
    target: Target,
    decision: Decision,
    events: Sequence[Ended] | Sequence[Event],
    *,
    native: bool = False,
) -> None:
    """Recover to what was planned, and compare all that was promised.

    `native`: PostgreSQL looks for the moment of the target by itself.
    """
    stop = decision.stop
    assert stop is not None, f"{target}: {decision.reason}"
    time = target.time if native and isinstance(target, AtTime) else None
    found = steps.go_on_to(decision, native=time)
    high = stop.lsn + 1 if stop.inclusive else stop.lsn
    promised = {
        event.xid
        for event in events
        if (event.kind.is_commit if isinstance(event, Event) else event.is_commit) and event.lsn < high
    }
    assert found.state.xids == promised & oracle.times.keys(), target
    wanted = oracle.state(found.state.xids)
    assert {
        key: text for key, text in found.state.notes.items() if not text.startswith("after ")
    } == wanted.notes, target
    assert found.state.counters == wanted.counters, target
    if stop.last_commit is not None:
        assert stop.last_commit.xid in promised, target
    # The record at an exclusive stop is not replayed; nothing is behind an inclusive one.
    replayed = parse_lsn(found.replayed)
    assert replayed > stop.lsn if stop.inclusive else replayed <= stop.lsn, (
        target,
        format_lsn(stop.lsn),
        found.replayed,
    )
    if time is None:
        where = re.fullmatch(r'(before|after) WAL location \(LSN\) "([0-9A-F]+)/([0-9A-F]+)"', found.said)
        assert where is not None, found.said
        side = "after" if stop.inclusive else "before"
        assert (where[1], int(where[2], 16) << 32 | int(where[3], 16)) == (side, stop.lsn), target
    else:
        assert stop.stop_event is not None
        kind = "commit" if stop.stop_event.kind.is_commit else "abort"
        ends = f"before {kind} of transaction {stop.stop_event.xid}, time "
        assert found.said.startswith(ends + format_postgres(stop.stop_event.time)[:19]), target
    match target:
        case AtTime(moment) if decision.disputed is None and decision.ahead is None:
            assert found.state.xids == oracle.until(moment), target
        case AtXid(xid, before) if xid in oracle.times:
            assert (xid in found.state.xids) is not before, target


def play(history: History, chance: random.Random, count: int) -> int:
    """Plan for `count` targets, recover to each; how many there were."""
    (backup,) = history.scene.json("backups")["backups"]
    with planner_of(history.scene) as planner:
        events = planner.events()
        targets = targets_of(history, events, instant(backup["stop_time"]), chance, count)
        planned = [(target, planner.plan(target)) for target in targets]
        refused = [(target, decision.reason) for target, decision in planned if decision.stop is None]
        assert not refused
        planned.sort(key=lambda pair: (pair[1].stop.lsn, pair[1].stop.inclusive))  # type: ignore[union-attr]
        with stepwise(history, planner.archive) as steps:
            for target, decision in planned:
                check(history.oracle.remembered, steps, target, decision, events)
    return len(planned)
