"""Random transactions on real tables, and what each of them did to which table: the oracle of `find`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

Deeds = dict[tuple[int, str], Counter[str]]
"""By transaction id and table: rows inserted, updated, deleted, and files dropped, truncated, rewritten."""

TABLES = ("plain", "wide", "parted", "keyed")


class _RolledBack(Exception):
    pass


@dataclass
class Doer:
    """Does things and remembers them; ids are 32-bit as in the WAL."""

    connection: psycopg.Connection[tuple[object, ...]]
    chance: random.Random
    done: Deeds = field(default_factory=dict)
    aborted: Deeds = field(default_factory=dict)
    _now: Counter[tuple[str, str]] = field(default_factory=Counter)
    _serial: int = 1000

    def run(self, sql: str) -> int:
        return self.connection.execute(sql).rowcount

    def did(self, table: str, what: str, count: int = 1) -> None:
        if count:
            self._now[table, what] += count

    def fresh(self, count: int) -> range:
        self._serial += count
        return range(self._serial - count, self._serial)

    @contextmanager
    def transaction(self, *, how: str = "commit") -> Iterator[None]:
        self._now.clear()
        self.run("BEGIN")
        yield
        row = self.connection.execute("SELECT pg_current_xact_id()::xid::text::bigint").fetchone()
        assert row is not None
        xid = int(str(row[0]))
        match how:
            case "commit":
                self.run("COMMIT")
            case "rollback":
                self.run("ROLLBACK")
            case _:
                self.run(f"PREPARE TRANSACTION 'p{xid}'")
                self.run("CHECKPOINT")
                self.run(f"{'COMMIT' if how == 'prepare' else 'ROLLBACK'} PREPARED 'p{xid}'")
        into = self.done if how in ("commit", "prepare") else self.aborted
        for (table, what), count in self._now.items():
            into.setdefault((xid, table), Counter())[what] += count

    # --- what can be done to rows -----------------------------------------------------------------

    def make(self) -> None:
        self.run("CREATE TABLE plain(i int PRIMARY KEY, x text)")
        self.run("CREATE TABLE wide(i int PRIMARY KEY, x text) WITH (fillfactor = 40)")
        self.run("CREATE TABLE keyed(i int PRIMARY KEY, x text UNIQUE)")
        self.run("CREATE TABLE parted(i int, x text) PARTITION BY RANGE (i)")
        self.run("CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (1000000)")
        self.run("CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (1000000) TO (3000000)")

    def table(self) -> str:
        return self.chance.choice(TABLES)

    def rows(self) -> None:
        """One statement on one table."""
        table = self.table()
        match self.chance.randrange(7):
            case 0 | 1:
                some = self.fresh(self.chance.randrange(1, 60))
                big = "repeat(md5(g::text), 200)" if self.chance.random() < 0.3 else "'x' || g"
                self.run(f"INSERT INTO {table} SELECT g, {big} FROM generate_series({some[0]}, {some[-1]}) g")
                self.did(table, "inserted", len(some))
            case 2:
                some = self.fresh(self.chance.randrange(1, 200))
                with self.connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                    for each in some:
                        copy.write_row((each, f"x{each}"))
                self.did(table, "inserted", len(some))
            case 3:
                modulo = self.chance.randrange(2, 9)
                self.did(table, "deleted", self.run(f"DELETE FROM {table} WHERE i % {modulo} = 0"))
            case 4 | 5:
                modulo = self.chance.randrange(2, 9)
                sql = f"UPDATE {table} SET x = x || 'y' WHERE i % {modulo} = 0"
                self.did(table, "updated", self.run(sql))
            case _:
                some = self.fresh(3)
                self.run(
                    f"INSERT INTO keyed SELECT g, 'k' || g FROM generate_series({some[0]}, {some[-1]}) g"
                )
                again = f"SELECT g, 'k' || g FROM generate_series({some[0]}, {some[-1] + 2}) g"
                added = self.run(f"INSERT INTO keyed {again} ON CONFLICT DO NOTHING")
                self.fresh(2)
                self.did("keyed", "inserted", 3 + added)

    def moved(self) -> None:
        """Rows that an UPDATE moves from one partition to another."""
        count = self.run("UPDATE parted SET i = i + 1000000 WHERE i < 1000000 AND i % 5 = 0")
        self.did("parted", "updated", count)
        self.did("parted", "inserted", count)

    def nobody(self) -> None:
        """What changes no row."""
        table = self.table()
        self.chance.choice(
            (
                lambda: self.run(f"SELECT * FROM {table} FOR UPDATE"),
                lambda: self.run(
                    "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT g FROM generate_series(1, 9) g"
                ),
                lambda: self.run(f"LOCK TABLE {table}"),
                lambda: self.run(f"COMMENT ON TABLE {table} IS 'x'"),
            )
        )()

    def within(self) -> None:
        """Something in a subtransaction, kept or not."""
        self.run("SAVEPOINT s")
        before = Counter(self._now)
        self.rows()
        if self.chance.random() < 0.5:
            self.run("ROLLBACK TO s")
            self._now = before
        self.run("RELEASE s")

    # --- what can be done to files ----------------------------------------------------------------

    def truncate(self) -> None:
        table = self.chance.choice(("plain", "wide", "keyed", "parted"))
        self.run(f"TRUNCATE {table}")
        self.did(table, "truncate")

    def replace(self) -> None:
        """A table dropped and made again, in one transaction."""
        table = self.chance.choice(("plain", "wide"))
        self.run(f"DROP TABLE {table}")
        self.did(table, "drop")
        self.run(f"CREATE TABLE {table}(i int PRIMARY KEY, x text)")

    def rewrite(self) -> None:
        """In a transaction of its own or not: a rewrite loses nothing."""
        table = self.chance.choice(("plain", "wide", "keyed"))
        kind = self.chance.choice(("bigint", "int"))
        self.run(f"ALTER TABLE {table} ALTER COLUMN i TYPE {kind}")
        self.did(table, "rewrite")

    def alone(self) -> None:
        """What PostgreSQL runs outside of transactions."""
        table = self.chance.choice(("plain", "wide", "keyed"))
        self.run(
            self.chance.choice(
                (
                    f"VACUUM FULL {table}",
                    f"VACUUM {table}",
                    f"VACUUM FREEZE {table}",
                    f"CLUSTER {table} USING {table}_pkey",
                    f"ANALYZE {table}",
                    f"REINDEX TABLE {table}",
                    f"CREATE INDEX ON {table} (x)",
                    "VACUUM pg_class",
                    "CHECKPOINT",
                )
            )
        )

    def anything(self) -> None:
        """One transaction, or one command outside of any."""
        luck = self.chance.random()
        if luck < 0.2:
            self.alone()
            return
        how = self.chance.choices(("commit", "rollback", "prepare", "unprepare"), (12, 2, 2, 1))[0]
        temporary = how in ("commit", "rollback")
        with self.transaction(how=how):
            for _ in range(self.chance.randrange(1, 4)):
                step = self.chance.choices(
                    (self.rows, self.within, self.moved, self.truncate, self.replace, self.rewrite),
                    (10, 5, 1, 2, 1, 1),
                )[0]
                step()
            if temporary and self.chance.random() < 0.3:
                self.nobody()
