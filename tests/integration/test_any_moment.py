"""Any moment: restores to chosen seconds, positions, transactions and names are exact row by row."""

from __future__ import annotations

import random
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.integration.oracle import SETTINGS, Oracle, State, pgbench_balances, read_state
from tests.integration.scene import Json, Scene, Scenes, end, instant, until
from walarchiver.core.moment import CommitTime, format_rfc3339

RANDOM_MOMENTS = 5
COMMITS_BEHIND_THE_BACKUP = 900
SEED = 20260
SECOND_US = 1_000_000


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
        assert len(set(balances)) == 1, balances
        assert self.scene.counted("failed_count") == 0
        return found, told


@pytest.fixture
def history(scenes: Scenes, major: int) -> History:
    """A base backup under load, then some seconds of work, all of it archived."""
    scene = scenes.make(major, store="s3", settings={**SETTINGS, "max_wal_size": "64MB"})
    dsn = scene.cluster.dsn()
    Oracle.make_tables(dsn)
    scene.cluster.program("pgbench", "-i", "-q", "-I", "dtGp", "-s", "1", "-d", dsn)
    oracle = Oracle(dsn, seed=SEED + major)
    halt = threading.Event()

    def bench() -> None:
        while not halt.is_set():
            scene.cluster.program("pgbench", "-n", "-c", "2", "-T", "1", "-R", "200", dsn)

    load = threading.Thread(target=bench)
    oracle.start()
    load.start()
    try:
        scene.json("backup")
        enough = len(oracle.done) + COMMITS_BEHIND_THE_BACKUP
        until(lambda: len(oracle.done) >= enough, "work behind the backup")
    finally:
        halt.set()
        load.join()
        oracle.stop()
    return History(scene, oracle, scene.reader())


def test_restores_to_chosen_moments_are_exact_row_by_row(history: History, major: int) -> None:
    scene, oracle = history.scene, history.oracle
    with psycopg.connect(scene.cluster.dsn(), autocommit=True) as sql:
        sql.execute("SELECT pg_create_restore_point('after_work')")
        sql.execute("INSERT INTO note (client, text) VALUES (99, 'after the restore point')")
    scene.archive_all()
    assert len(oracle.done) > 100
    assert oracle.undone > 5

    (backup,) = scene.json("backups")["backups"]
    restorable = {xid: time for xid, time in oracle.times.items() if time > instant(backup["stop_time"])}
    chance = random.Random(SEED * major)
    for moment in chosen_moments(sorted(restorable.values()), chance):
        check_moment(history, moment)
    check_transaction(history, chance.choice(sorted(restorable)))
    everything = oracle.state(oracle.times)
    found, _ = history.restore("name:after_work")
    assert found == everything
    found, _ = history.restore("latest")
    assert found.xids == everything.xids
    assert set(found.notes.values()) - set(everything.notes.values()) == {"after the restore point"}


def chosen_moments(commits: list[CommitTime], chance: random.Random) -> list[CommitTime]:
    """Random microseconds, a random whole second, and one commit's own moment."""
    first, last = commits[0], commits[-1]
    moments = [CommitTime(chance.randint(first, last)) for _ in range(RANDOM_MOMENTS - 2)]
    moments.append(CommitTime(chance.randint(first // SECOND_US + 1, last // SECOND_US) * SECOND_US))
    return [*moments, chance.choice(commits)]


def check_moment(history: History, moment: CommitTime) -> None:
    at, oracle = format_rfc3339(moment), history.oracle
    plan = history.scene.json("plan", "--at", at, config=history.config)
    found, told = history.restore(at)
    wanted = oracle.until(moment)
    if plan["disputed"] is not None:  # commit times ran backwards just there
        early = CommitTime(moment - plan["disputed"]["backward_us"])
        assert oracle.until(early) <= found.xids <= wanted
        wanted = found.xids
    assert told["stop_lsn"] == plan["stop"]["lsn"]
    assert found == oracle.state(wanted), at


def check_transaction(history: History, xid: int) -> None:
    """Just after, just before, and at the position of a transaction's commit."""
    after, told = history.restore(f"xid:{xid}")
    before, told_before = history.restore(f"before-xid:{xid}")
    assert told["stop_lsn"] == told_before["stop_lsn"]
    assert after.xids - before.xids == {xid}
    assert after == history.oracle.state(after.xids)
    assert before == history.oracle.state(before.xids)
    at_lsn, _ = history.restore(f"lsn:{told['stop_lsn']}")
    assert at_lsn == before
