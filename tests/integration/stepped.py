"""A server whose clock is set forwards and backwards while it works: its timelines, and what each remembers.

    timeline 1   base backup, work ─ copy of the stopped server ─ more work (a tail nobody follows)
    timeline 2                        └ the copy, promoted: work, base backup, work

Rules:
- Work is the oracle's; between its commits chance has the clock stepped, segments switched, restore points
  made, transactions prepared and left open, and everybody rest while the clock is stepped.
- Every step is by as much as chance says, from microseconds to days; each phase ends where the clock is.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.oracle import SETTINGS, Oracle, Remembered
from tests.integration.scene import Scene, Scenes, until
from tests.kit.postgres import as_server_user
from tests.kit.stepclock import StepClock

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
STEPS_US = (
    1,
    30,
    700,
    9_000,
    300_000,
    2 * SECOND_US,
    90 * SECOND_US,
    3600 * SECOND_US,
    2 * DAY_US,
    25 * DAY_US,
)
RECOVERY = (
    "restore_command = 'false'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'promote'\n"
)


@dataclass
class Stepped:
    """A history with clock steps, all of it archived."""

    scene: Scene
    past: dict[int, Remembered]
    """What the path to each timeline holds."""
    points: list[str]
    """Restore points, each name once."""
    steps: int


@dataclass
class Play:
    """Work on one server under a clock that chance steps."""

    scene: Scene
    clock: StepClock
    chance: random.Random
    steps: int = 0
    points: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Transactions prepared and not ended."""

    def work(self, rounds: int, *, held: tuple[str, ...] = ()) -> Remembered:
        """So many rounds of commits, a disturbance behind each; what was committed."""
        self.held = list(held)
        oracle = Oracle(self.scene.cluster.dsn(), seed=self.chance.getrandbits(32))
        oracle.start()
        try:
            for _ in range(rounds):
                enough = len(oracle.done) + self.chance.randint(4, 20)
                until(lambda: len(oracle.done) >= enough, "work between disturbances")  # noqa: B023
                self._disturb(oracle)
        finally:
            oracle.stop()
        return oracle.remembered

    def _disturb(self, oracle: Oracle) -> None:
        deeds: list[Callable[[], None]] = [self._step, self._step, self._step, self._mark, self._prepare]
        deeds += [self._end_prepared, self._switch, lambda: self._idle(oracle)]
        self.chance.choice(deeds)()

    def _step(self) -> None:
        self.steps += 1
        if self.clock.ahead_us and self.chance.random() < 0.3:
            self.clock.set_right()
        else:
            self.clock.step(self.chance.choice((-1, 1)) * self.chance.choice(STEPS_US))

    def _mark(self) -> None:
        name = f"point {self.chance.getrandbits(64):x}"
        self.points.append(name)
        self.scene.cluster.psql(f"SELECT pg_create_restore_point('{name}')")

    def _prepare(self) -> None:
        name = f"held {self.chance.getrandbits(64):x}"
        self.held.append(name)
        self.scene.cluster.psql(f"BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{name}'")

    def _end_prepared(self) -> None:
        if self.held:
            name = self.held.pop(self.chance.randrange(len(self.held)))
            self.scene.cluster.psql(f"{self.chance.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")

    def _switch(self) -> None:
        self.scene.cluster.psql("SELECT pg_switch_wal()")

    def _idle(self, oracle: Oracle) -> None:
        """Nobody commits anything while the clock goes on by hours, or back by some."""
        oracle.rest()
        self.clock.step(self.chance.choice((-1, 1, 3)) * 3600 * SECOND_US)
        self.steps += 1
        self._switch()
        oracle.go_on()


def stepped(scenes: Scenes, clock: StepClock, major: int, *, seed: int, rounds: int) -> Stepped:
    """Both timelines' lives, `rounds` of disturbances in each phase."""
    chance = random.Random(seed)
    settings = {**SETTINGS, "max_wal_size": "64MB"}
    scene = scenes.make(major, settings=settings, environment=clock.environment)
    Oracle.make_tables(scene.cluster.dsn())
    play = Play(scene, clock, chance)
    scene.json("backup")
    common = play.work(rounds)
    held, marks = tuple(play.held), len(play.points)
    scene.archive_all()
    scene.cluster.stop()
    kept = scene.cluster.directory / "kept"
    shutil.copytree(scene.cluster.data_dir, kept, symlinks=True)
    scene.cluster.start()
    tail = play.work(rounds // 2, held=held)
    scene.archive_all()
    del play.points[marks:]  # on the tail only
    _go_back_to(scene, kept)
    later = play.work(rounds, held=held)
    scene.json("backup")
    later += play.work(rounds, held=tuple(play.held))
    scene.archive_all()
    assert scene.counted("failed_count") == 0
    return Stepped(scene, {1: common + tail, 2: common + later}, play.points, play.steps)


def _go_back_to(scene: Scene, kept: Path) -> None:
    """The server goes on from a copy of itself, on a timeline of its own."""
    cluster = scene.cluster
    cluster.stop()
    shutil.rmtree(cluster.data_dir)
    shutil.move(kept, cluster.data_dir)
    (cluster.data_dir / "postgresql.auto.conf").write_text(RECOVERY)
    (cluster.data_dir / "recovery.signal").touch()
    as_server_user(cluster, cluster.data_dir / "recovery.signal")
    if cluster.run_as is not None:
        cluster.run_as.take(cluster.data_dir)
    cluster.start()
    until(lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the promotion")
