"""The demo bank's SQL: tables, transfers, and reading them all back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

from walarchiver.core.moment import CommitTime
from walarchiver.postgres.connection import database_errors, open_connection

_TABLES = """
CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE transfer (id bigserial PRIMARY KEY, debit int NOT NULL, credit int NOT NULL,
    amount int NOT NULL, note text NOT NULL);
CREATE TABLE receipt (storage_key text PRIMARY KEY, transfer bigint NOT NULL, sha256 bytea NOT NULL);
"""
RECEIPTS = "SELECT storage_key, sha256 FROM receipt"
"""What the database refers to in the bucket."""
_MOVE = "UPDATE account SET balance = balance + %s WHERE id = %s"
_NOTE = "INSERT INTO transfer (debit, credit, amount, note) VALUES (%s, %s, %s, %s) RETURNING id"
_COMMIT_TIME = (
    "SELECT (extract(epoch from t) * 1000000)::bigint FROM pg_xact_commit_timestamp(%s::text::xid) AS t"
)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One row of `transfer`."""

    id: int
    debit: int
    credit: int
    amount: int
    note: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """One row of `receipt`, and so one object of the bucket."""

    storage_key: str
    sha256: str
    """Hex."""


class Bank:
    """One client's connection."""

    def __init__(self, dsn: str) -> None:
        with database_errors():
            self._connection = open_connection(dsn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def make(self, accounts: int, balance: int) -> None:
        """Make the tables and open the accounts."""
        with self._connection.transaction():
            self._connection.execute(_TABLES)
            self._connection.execute(
                "INSERT INTO account SELECT n, %s FROM generate_series(1, %s) AS n", (balance, accounts)
            )

    def transfer(
        self, moves: Sequence[tuple[int, int, int]], *, note: str, receipt: Receipt | None, commit: bool
    ) -> tuple[int, tuple[Transfer, ...]] | None:
        """Move money (debit, credit, amount) in one transaction: its xid and rows, None if rolled back.

        `receipt` is for the first of them; its object is stored already. The xid is the 32-bit id of the
        transaction, as it stands in the WAL.
        """
        rows = []
        with database_errors(), self._connection.transaction() as transaction:
            changes: dict[int, int] = {}
            for debit, credit, amount in moves:
                changes[debit] = changes.get(debit, 0) - amount
                changes[credit] = changes.get(credit, 0) + amount
            for account in sorted(changes):
                self._connection.execute(_MOVE, (changes[account], account))
            for debit, credit, amount in moves:
                row = self._connection.execute(_NOTE, (debit, credit, amount, note)).fetchone()
                assert row is not None
                rows.append(Transfer(row[0], debit, credit, amount, note))
            if receipt is not None:
                values = (receipt.storage_key, rows[0].id, bytes.fromhex(receipt.sha256))
                self._connection.execute("INSERT INTO receipt VALUES (%s, %s, %s)", values)
            row = self._connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            if not commit:
                raise psycopg.Rollback(transaction)
        return (int(row[0]) & 0xFFFFFFFF, tuple(rows)) if commit else None

    def commit_time(self, xid: int) -> CommitTime:
        """When the server says that a transaction was committed (track_commit_timestamp)."""
        row = self._connection.execute(_COMMIT_TIME, (xid,)).fetchone()
        assert row is not None
        return CommitTime(int(row[0]))

    def run(self, sql: str) -> int:
        """Run one statement in a transaction of its own; its xid."""
        with self._connection.transaction():
            self._connection.execute(sql.encode())
            row = self._connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        return int(row[0]) & 0xFFFFFFFF

    def receipts(self) -> dict[str, str]:
        """Digest by storage key, of every row."""
        rows = self._connection.execute("SELECT storage_key, encode(sha256, 'hex') FROM receipt").fetchall()
        return dict(rows)

    def read(self) -> tuple[dict[int, int], dict[int, Transfer]]:
        """Every row of accounts and transfers, by id."""
        with self._connection.transaction():
            accounts = self._connection.execute("SELECT id, balance FROM account").fetchall()
            rows = self._connection.execute("SELECT id, debit, credit, amount, note FROM transfer").fetchall()
        return dict(accounts), {row[0]: Transfer(*row) for row in rows}
