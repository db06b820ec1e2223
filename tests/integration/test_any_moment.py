"""Any moment: restores to chosen seconds, positions, transactions and names are exact row by row."""

from __future__ import annotations

import random

import psycopg
import pytest

from tests.integration.moments import History, live_through
from tests.integration.scene import Scenes, instant
from tests.kit.postgres import seldom
from walarchiver.core.moment import CommitTime

RANDOM_MOMENTS = 5
SEED = 20260
SECOND_US = 1_000_000


@pytest.fixture
def history(scenes: Scenes, major: int) -> History:
    """A base backup under load, then some seconds of work, all of it archived."""
    return live_through(scenes, major, seed=SEED + major)


@pytest.mark.parametrize("major", [18, *seldom(15)])
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
        history.check(moment)
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
