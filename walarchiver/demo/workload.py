"""A small bank under load, that remembers what it did: the oracle of the proof.

Rules:
- Several connections transfer money between accounts and note each transfer; some transactions
  roll back. Every committed transaction's id and rows are remembered here, outside the database.
- To every third transaction or so belongs a receipt: a file in the bucket, stored before the row that refers
  to it commits. Of a transaction that is rolled back the file stays, as it does in real life.
- Which of them a moment includes is not judged by our own reading of the WAL: the server itself
  keeps each transaction's commit time (track_commit_timestamp), and is asked before the disaster.
"""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass, field

from walarchiver.bucketports import EvidenceBucket
from walarchiver.core.moment import CommitTime
from walarchiver.errors import WalarchiverError
from walarchiver.ports import Clock
from walarchiver.postgres.demo_sql import Bank, Receipt, Transfer

ACCOUNTS = 200
OPENING_BALANCE = 1_000
RECEIPTS_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed transaction and what it wrote."""

    xid: int
    transfers: tuple[Transfer, ...]
    receipt: Receipt | None
    acknowledged_us: int
    """When the client had PostgreSQL's answer, on this host's clock."""


@dataclass(slots=True)
class Journal:
    """What the workload recorded. Thread-safe by its lock."""

    committed: list[Committed] = field(default_factory=list)
    rolled_back: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class State:
    """The rows of all tables."""

    balances: dict[int, int]
    transfers: dict[int, Transfer]
    receipts: dict[str, str]
    """SHA-256 by storage key."""


def expected_state(committed: list[Committed], commit_times: dict[int, CommitTime], at: CommitTime) -> State:
    """What the tables must hold at a moment, from the journal and the server's commit times."""
    balances = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING_BALANCE)
    transfers: dict[int, Transfer] = {}
    receipts: dict[str, str] = {}
    for transaction in committed:
        if commit_times[transaction.xid] > at:
            continue
        for transfer in transaction.transfers:
            balances[transfer.debit] -= transfer.amount
            balances[transfer.credit] += transfer.amount
            transfers[transfer.id] = transfer
        if transaction.receipt is not None:
            receipts[transaction.receipt.storage_key] = transaction.receipt.sha256
    return State(balances, transfers, receipts)


class Workload:
    """Clients at work until `stop`."""

    def __init__(
        self, dsn: str, bucket: EvidenceBucket, *, seed: int, clock: Clock, clients: int = 3
    ) -> None:
        self._dsn = dsn
        self._bucket = bucket
        self._clock = clock
        self._seed = seed
        self._clients = clients
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[WalarchiverError] = []
        self.journal = Journal()

    def start(self) -> None:
        for number in range(self._clients):
            thread = threading.Thread(target=self._client, args=(number,), name=f"client {number}")
            thread.start()
            self._threads.append(thread)

    def stop(self, *, server_lost: bool = False) -> Journal:
        """End all clients; raises what one of them met, unless the server was taken from them."""
        self._halt.set()
        for thread in self._threads:
            thread.join()
        if self._failures and not server_lost:
            raise self._failures[0]
        return self.journal

    def committed(self) -> list[Committed]:
        """What has been committed so far."""
        with self.journal.lock:
            return list(self.journal.committed)

    def _client(self, number: int) -> None:
        chance = random.Random(self._seed * 1009 + number)  # noqa: S311 - a workload, not a secret
        try:
            with Bank(self._dsn) as bank:
                while not self._halt.wait(chance.uniform(0.0, 0.004)):
                    self._work(bank, chance, number)
        except WalarchiverError as error:
            self._failures.append(error)

    def _work(self, bank: Bank, chance: random.Random, number: int) -> None:
        pairs = []
        for _ in range(chance.randint(1, 3)):
            debit, credit = sorted(chance.sample(range(1, ACCOUNTS + 1), 2))
            pairs.append((debit, credit, chance.randint(1, 99)))
        pairs.sort()  # one locking order for all clients: no deadlocks
        commit = chance.random() > 0.1
        note = f"client {number} {chance.getrandbits(64):016x}"
        receipt = self._store(note) if chance.random() < RECEIPTS_SHARE else None
        done = bank.transfer(pairs, note=note, receipt=receipt, commit=commit)
        with self.journal.lock:
            if done is None:
                self.journal.rolled_back += 1
            else:
                self.journal.committed.append(Committed(*done, receipt, self._clock.now_us()))

    def _store(self, note: str) -> Receipt:
        """The file of a receipt, stored."""
        body = f"receipt\n{note}\n".encode() * 40
        key = f"receipts/{note.replace(' ', '/')}.txt"
        self._bucket.put(key, body)
        return Receipt(key, hashlib.sha256(body).hexdigest())
