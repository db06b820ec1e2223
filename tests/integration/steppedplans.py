"""Plans under a stepped clock: what is decided, what pg_waldump's list makes of it, and what PostgreSQL does.

Each target is decided on the path that was asked for, compared with the naive judgement of `judged.py`, and
then recovered to by a real server. For moments half of the recoveries use PostgreSQL's own search for a time:
it must stop where the plan says.
"""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from restore.core.branches import path_to
from restore.core.model import AtLatest, AtLsn, AtName, AtTime, AtXid, Decision, Target
from restore.core.planner import decide
from restore.core.windows import windows
from tests.integration.judged import ENDS, Told, Truth, as_wanted
from tests.integration.planned import Planner, check, planner_of
from tests.integration.stepped import Stepped
from tests.integration.stepwise import laid_out, lay_out_wal
from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


@dataclass(frozen=True)
class Asked:
    """One target on the path to a timeline, and how it is recovered to."""

    timeline: int
    target: Target
    include: bool = False
    native: bool = False


@dataclass
class Counted:
    """What was played."""

    recoveries: int = 0
    native: int = 0
    disputed: int = 0
    ahead: int = 0
    refusals: int = 0
    moments: int = 0
    """Of windows, each of which must have a plan."""


def truth_of(planner: Planner, wal: Path, bin_dir: Path, timeline: int) -> Truth:
    """pg_waldump's list of the path to a timeline."""
    path, view = path_to(planner.view, timeline), planner.view
    assert path is not None
    numbers = [run for run in view.runs if run.timeline in path.path]
    first, last = min(run.first for run in numbers), max(run.last for run in numbers)
    scans = [planner.reader.scan(path, number) for number in range(first, last + 1)]
    return Truth.of(
        bin_dir,
        wal,
        path,
        Segment(path.timeline_of_segment(first, view.segment_size), first).start(view.segment_size),
        size=view.segment_size,
        backups=view.backups,
        horizons=view.horizons,
        checkpoints=[(one.time, one.lsn) for scan in scans for one in scan.checkpoints],
    )


def targets_of(truth: Truth, points: list[str], chance: random.Random) -> Callable[[], Target]:
    """Draws targets of every kind behind the path's first base backup, most of them moments."""
    begin = truth.backups[-1].stop_lsn
    events = [event for event in truth.events if event.lsn >= begin]
    ends = [event for event in events if event.kind in ENDS]
    pairs = list(pairwise(events))
    back = [(one, two) for one, two in pairs if two.time < one.time]
    times = [event.time for event in events]
    known = {line.rest.removeprefix(":").strip() for line in truth.lines if line.word == "RESTORE_POINT"}
    names = [name for name in points if name in known]

    def between(pair: tuple[Told, Told]) -> CommitTime:
        return CommitTime(chance.randint(*sorted(event.time for event in pair)))

    kinds: list[Callable[[], Target]] = [
        lambda: AtTime(between(chance.choice(back))),
        lambda: AtTime(between(chance.choice(pairs))),
        lambda: AtTime(CommitTime(chance.choice(events).time + chance.choice((-1, 0, 1)))),
        lambda: AtTime(CommitTime(chance.choice(times) // SECOND_US * SECOND_US + SECOND_US)),
        lambda: AtTime(CommitTime(chance.randint(min(times), max(times) + 2 * SECOND_US))),
        lambda: AtXid(chance.choice(ends).xid, before=chance.random() < 0.5),
        lambda: AtLsn(Lsn(chance.randint(begin, truth.lines[-1].lsn + 1))),
        lambda: AtLsn(Lsn(chance.choice(events).lsn + chance.choice((-1, 0, 1)))),
        lambda: AtName(chance.choice(names)) if names else AtLatest(),
    ]
    weights = (4, 4, 3, 1, 2, 3, 1, 2, 1)

    def draw() -> Target:
        return chance.choices(kinds, weights)[0]()

    return draw


def decided(planner: Planner, truth: Truth, asked: Asked) -> Decision:
    """The decision, which must say what the naive judgement says."""
    decision = decide(
        planner.view,
        asked.target,
        planner.reader.knowledge(),
        timeline=asked.timeline,
        disputed="include" if asked.include else "exclude",
    )
    wanted = truth.wanted(asked.target, include=asked.include)
    assert as_wanted(decision) == wanted, (asked, decision.reason)
    if wanted is None and isinstance(asked.target, AtTime):
        _neighbours(truth, asked.target.time, decision)
    return decision


def _neighbours(truth: Truth, time: CommitTime, decision: Decision) -> None:
    """Both neighbours of a refused moment can be restored; what lies nearer cannot, or is in dispute."""
    before, after = decision.nearest.before, decision.nearest.after
    for neighbour in (before, after):
        assert neighbour is None or truth.wanted(AtTime(neighbour)) is not None, (time, decision.nearest)
    assert before is None or before < time
    assert after is None or after > time
    for part in range(1, 8):
        for near, far in ((before, -DAY_US), (after, DAY_US)):
            edge = time + far if near is None else near
            between = CommitTime(time + (edge - time) * part // 8)
            nearer = None if between == near else truth.wanted(AtTime(between))
            assert nearer is None or nearer.disputed is not None, (time, between, decision.nearest)


def promised_seconds(planner: Planner, truth: Truth, chance: random.Random) -> int:
    """Every moment inside of a window can be restored; how many were asked for."""
    asked = 0
    for window in windows(planner.view, planner.reader.knowledge(), truth.path.timeline):
        if window.latest is not None:
            drawn = [CommitTime(chance.randint(window.earliest, window.latest)) for _ in range(20)]
            for time in (window.earliest, window.latest, *drawn):
                assert truth.wanted(AtTime(time)) is not None, (window, time)
                asked += 1
    return asked


def play(stepped: Stepped, chance: random.Random, count: int) -> Counted:
    """Decide until `count` of the targets can be recovered to, then recover to each."""
    scene, counted = stepped.scene, Counted()
    config = scene.reader()
    with planner_of(scene) as planner:
        wal = lay_out_wal(planner.archive, scene.stage.folder / "plain")
        truths = {one: truth_of(planner, wal, scene.cluster.bin_dir, one) for one in stepped.past}
        draw = {one: targets_of(truth, stepped.points, chance) for one, truth in truths.items()}
        todo: defaultdict[tuple[int, str], list[tuple[Asked, Decision]]] = defaultdict(list)
        counted.moments = sum(promised_seconds(planner, truth, chance) for truth in truths.values())
        planned = 0
        while planned < count:
            timeline = chance.choice((1, 2, 2, 2))
            target = AtLatest() if planned == 0 else draw[timeline]()
            asked = Asked(timeline, target, chance.random() < 0.2, chance.random() < 0.5)
            decision = decided(planner, truths[timeline], asked)
            if decision.backup is None:
                counted.refusals += 1
                continue
            planned += 1
            counted.disputed += decision.disputed is not None
            counted.ahead += decision.ahead is not None
            todo[timeline, decision.backup.id].append((asked, decision))
        for (timeline, backup), pairs in sorted(todo.items()):
            pairs.sort(key=lambda pair: (pair[1].stop.lsn, pair[1].stop.inclusive))  # type: ignore[union-attr]
            at = next(format_lsn(b.stop_lsn) for b in planner.view.backups if b.id == backup)
            with laid_out(scene, wal, f"lsn:{at}", "--timeline", str(timeline), config=config) as steps:
                for asked, decision in pairs:
                    native = asked.native and _has_its_own_search(asked.target, decision)
                    check(
                        stepped.past[timeline],
                        steps,
                        asked.target,
                        decision,
                        truths[timeline].events,
                        native=native,
                    )
                    counted.recoveries += 1
                    counted.native += native
        shutil.rmtree(wal)
    return counted


def _has_its_own_search(target: Target, decision: Decision) -> bool:
    """Whether PostgreSQL itself can find this stop by a time: before a commit or abort that is newer."""
    stop = decision.stop
    return (
        isinstance(target, AtTime)
        and stop is not None
        and not stop.inclusive
        and stop.stop_event is not None
        and stop.stop_event.kind.ends_transaction
    )
