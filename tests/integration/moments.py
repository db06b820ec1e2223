"""Histories to restore from at many moments, and the oracle's judgement of each restore."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.integration.oracle import SETTINGS, Oracle, State, pgbench_balances, read_state
from tests.integration.scene import Json, Scene, Scenes, end, until
from walarchiver.core.moment import CommitTime, format_rfc3339

CHECKPOINT_EVERY = 100
"""Commits; a recovery that is broken off goes on at the last checkpoint that it has replayed."""


@dataclass
class History:
    """What the live server went through, and who knows it."""

    scene: Scene
    oracle: Oracle
    config: Path
    restored: int = 0

    def restore(self, at: str) -> tuple[State, Json]:
        """Restore to `at` on an empty machine: the rows that are there, and what the command told."""
        self.restored += 1
        into = self.scene.stage.folder / f"r{self.restored}"
        told = self.scene.restore(at, into, config=self.config)
        try:
            found, balances = read_state(told["dsn"]), pgbench_balances(told["dsn"])
        finally:
            end(told["pid"], into)
        shutil.rmtree(into)
        shutil.rmtree(into.with_name(f"{into.name}.walarchiver"))
        assert len(set(balances)) == 1, balances
        assert self.scene.counted("failed_count") == 0
        return found, told

    def check(self, moment: CommitTime) -> bool:
        """Restore to a moment and compare every row; whether commit times ran backwards just there."""
        at, oracle = format_rfc3339(moment), self.oracle
        plan = self.scene.json("plan", "--at", at, config=self.config)
        found, told = self.restore(at)
        wanted = oracle.until(moment)
        if plan["disputed"] is not None:  # commit times ran backwards just there
            early = CommitTime(moment - plan["disputed"]["backward_us"])
            assert oracle.until(early) <= found.xids <= wanted, at
            wanted = found.xids
        assert told["stop_lsn"] == plan["stop"]["lsn"], at
        assert found == oracle.state(wanted), at
        return plan["disputed"] is not None


def live_through(scenes: Scenes, major: int, *, seed: int, backups: int = 1, commits: int = 900) -> History:
    """Base backups under load, `commits` of the oracle's behind each; everything but the end is archived."""
    scene = scenes.make(major, store="s3", settings={**SETTINGS, "max_wal_size": "64MB"})
    dsn = scene.cluster.dsn()
    Oracle.make_tables(dsn)
    scene.cluster.program("pgbench", "-i", "-q", "-I", "dtGp", "-s", "1", "-d", dsn)
    oracle = Oracle(dsn, seed=seed)
    halt = threading.Event()

    def bench() -> None:
        while not halt.is_set():
            scene.cluster.program("pgbench", "-n", "-c", "2", "-T", "1", "-R", "200", dsn)

    load = threading.Thread(target=bench)
    oracle.start()
    load.start()
    try:
        for _ in range(backups):
            scene.json("backup")
            begun = len(oracle.done)
            for enough in range(begun, begun + commits, CHECKPOINT_EVERY):
                until(lambda: len(oracle.done) >= enough, "work behind the backup")  # noqa: B023
                scene.cluster.psql("CHECKPOINT")
            until(lambda: len(oracle.done) >= begun + commits, "work behind the backup")  # noqa: B023
    finally:
        halt.set()
        load.join()
        oracle.stop()
    return History(scene, oracle, scene.reader())
