"""Clients at work whose every commit is remembered outside the database: what a restore must show.

Rules:
- Rows are only inserted, deleted by the client that inserted them, and counted up: so the state of
  any set of transactions is known from their own notes, in whatever order they committed.
- Each transaction leaves its id in `mark`, so what a restored database includes can be read there.
- When a transaction was committed is told by the server itself (track_commit_timestamp), not by our
  reading of the WAL.
- Every kind is played: commit, rollback, released and rolled back savepoints, two-phase commit and
  its rollback.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import psycopg

from walarchiver.core.moment import CommitTime

COUNTERS = 20
SETTINGS = {"track_commit_timestamp": "on", "max_prepared_transactions": "20"}
_TABLES = """
CREATE TABLE note (id bigserial PRIMARY KEY, client int NOT NULL, text text NOT NULL);
CREATE TABLE counter (id int PRIMARY KEY, total bigint NOT NULL);
CREATE TABLE mark (xid bigint PRIMARY KEY);
INSERT INTO counter SELECT n, 0 FROM generate_series(1, 20) AS n;
"""
_MARK = "INSERT INTO mark VALUES (pg_current_xact_id()::text::bigint & 4294967295) RETURNING xid"
_COMMIT_TIME = "SELECT (extract(epoch from pg_xact_commit_timestamp(%s::text::xid)) * 1000000)::bigint"


_BALANCES = """
SELECT (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches),
    (SELECT sum(abalance) FROM pgbench_accounts), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""


@dataclass(frozen=True)
class Done:
    """One committed transaction."""

    xid: int
    inserted: dict[int, str]
    deleted: frozenset[int]
    counted: dict[int, int]


@dataclass
class State:
    """Every row of the oracle's tables."""

    xids: set[int]
    notes: dict[int, str]
    counters: dict[int, int]


@dataclass(frozen=True)
class Remembered:
    """What committed on one timeline, and when."""

    done: list[Done]
    times: dict[int, CommitTime]

    def __add__(self, later: Remembered) -> Remembered:
        """With what was done after it, on the same timeline or on one that goes on from its end."""
        return Remembered(self.done + later.done, self.times | later.times)

    def until(self, moment: CommitTime) -> set[int]:
        """The transactions committed at or before a moment."""
        return {xid for xid, time in self.times.items() if time <= moment}

    def state(self, xids: Iterable[int]) -> State:
        """The rows after these transactions."""
        wanted = set(xids)
        notes: dict[int, str] = {}
        counters = dict.fromkeys(range(1, COUNTERS + 1), 0)
        gone: set[int] = set()
        for done in self.done:
            if done.xid in wanted:
                notes |= done.inserted
                gone |= done.deleted
                for counter, amount in done.counted.items():
                    counters[counter] += amount
        return State(wanted, {key: text for key, text in notes.items() if key not in gone}, counters)


@dataclass
class Tried:
    """What a transaction under way has done so far."""

    inserted: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    counted: dict[int, int] = field(default_factory=dict)

    def merge(self, other: Tried) -> None:
        self.inserted |= other.inserted
        self.deleted |= other.deleted
        for counter, amount in other.counted.items():
            self.counted[counter] = self.counted.get(counter, 0) + amount


class Client:
    """One connection, one transaction after the other."""

    def __init__(self, dsn: str, seed: int, number: int) -> None:
        self.chance = random.Random(f"{seed} {number}")
        self.number = number
        self.done: list[Done] = []
        self.undone = 0
        self.own: set[int] = set()
        self._sql = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self._sql.close()

    def work(self) -> None:
        """One transaction of a kind that chance chooses."""
        kind = self.chance.choices(
            ("commit", "rollback", "savepoints", "prepared", "unprepared"), (10, 2, 5, 3, 1)
        )[0]
        tried = Tried()
        self._sql.execute("BEGIN")
        self._statements(tried)
        if kind == "savepoints":
            self._savepoints(tried)
        xid = self._one(_MARK)
        if kind in ("commit", "savepoints"):
            self._sql.execute("COMMIT")
        elif kind == "rollback":
            self._sql.execute("ROLLBACK")
        else:
            name = f"p{self.number}"
            self._sql.execute(f"PREPARE TRANSACTION '{name}'".encode())
            how = "COMMIT" if kind == "prepared" else "ROLLBACK"
            self._sql.execute(f"{how} PREPARED '{name}'".encode())
        if kind in ("rollback", "unprepared"):
            self.undone += 1
            return
        self.own |= tried.inserted.keys()
        self.own -= tried.deleted
        self.done.append(Done(xid, tried.inserted, frozenset(tried.deleted), tried.counted))

    def _savepoints(self, tried: Tried) -> None:
        for keep in (True, False, True):
            self._sql.execute("SAVEPOINT s")
            inner = Tried()
            self._statements(inner, only_insert=True)
            if keep:
                self._sql.execute("RELEASE SAVEPOINT s")
                tried.merge(inner)
            else:
                self._sql.execute("ROLLBACK TO SAVEPOINT s")

    def _statements(self, tried: Tried, *, only_insert: bool = False) -> None:
        for _ in range(self.chance.randint(1, 3)):
            text = f"{self.number} {self.chance.getrandbits(256):064x}"
            row = self._one("INSERT INTO note (client, text) VALUES (%s, %s) RETURNING id", self.number, text)
            tried.inserted[row] = text
        if only_insert:
            return
        if self.own and self.chance.random() < 0.3:
            victim = self.chance.choice(sorted(self.own))
            self._sql.execute("DELETE FROM note WHERE id = %s", (victim,))
            tried.deleted.add(victim)
        counter, amount = self.chance.randint(1, COUNTERS), self.chance.randint(1, 9)
        self._sql.execute("UPDATE counter SET total = total + %s WHERE id = %s", (amount, counter))
        tried.counted[counter] = amount

    def _one(self, sql: str, *values: object) -> int:
        row = self._sql.execute(sql.encode(), values or None).fetchone()
        assert row is not None
        return int(row[0])


class Oracle:
    """Several clients at work from `start` to `stop`; then the one who knows."""

    def __init__(self, dsn: str, *, seed: int, clients: int = 3) -> None:
        self._dsn = dsn
        self._clients = [Client(dsn, seed, number) for number in range(clients)]
        self._halt = threading.Event()
        self._go = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self.times: dict[int, CommitTime] = {}

    @staticmethod
    def make_tables(dsn: str) -> None:
        with psycopg.connect(dsn) as sql:
            sql.execute(_TABLES.encode())

    def start(self) -> None:
        self._go.set()
        for client in self._clients:
            thread = threading.Thread(target=self._run, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _run(self, client: Client) -> None:
        try:
            while not self._halt.wait(client.chance.uniform(0, 0.01)):
                self._go.wait()
                client.work()
        except BaseException as error:
            self._failures.append(error)

    def rest(self) -> None:
        """Let the clients begin nothing more until `go_on`."""
        self._go.clear()

    def go_on(self) -> None:
        self._go.set()

    def stop(self) -> None:
        """End the clients and ask the server for every commit's time."""
        self._halt.set()
        self._go.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()
        if self._failures:
            raise self._failures[0]
        with psycopg.connect(self._dsn) as sql:
            for done in self.done:
                row = sql.execute(_COMMIT_TIME, (done.xid,)).fetchone()
                assert row is not None
                self.times[done.xid] = CommitTime(int(row[0]))

    @property
    def done(self) -> list[Done]:
        return [done for client in self._clients for done in client.done]

    @property
    def undone(self) -> int:
        return sum(client.undone for client in self._clients)

    @property
    def remembered(self) -> Remembered:
        """All of it, once the clients have ended."""
        return Remembered(self.done, self.times)

    def until(self, moment: CommitTime) -> set[int]:
        """The transactions committed at or before a moment."""
        return self.remembered.until(moment)

    def state(self, xids: Iterable[int]) -> State:
        """The rows after these transactions."""
        return self.remembered.state(xids)


def read_state(dsn: str) -> State:
    """The rows that are there."""
    with psycopg.connect(dsn) as sql:
        notes = dict(sql.execute("SELECT id, text FROM note").fetchall())
        xids = {row[0] for row in sql.execute("SELECT xid FROM mark")}
        return State(xids, notes, dict(sql.execute("SELECT id, total FROM counter").fetchall()))


def pgbench_balances(dsn: str) -> tuple[int, int, int, int]:
    """What pgbench keeps equal in every consistent state: tellers, branches, accounts, history."""
    with psycopg.connect(dsn) as sql:
        row = sql.execute(_BALANCES).fetchone()
    assert row is not None
    return (int(row[0]), int(row[1]), int(row[2]), int(row[3]))
