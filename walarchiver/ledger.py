"""Ledger: reads, verifies and extends one cluster's chain of signed entries.

Rules (docs/format.md, "Ledger"):
- The chain is read in order and every entry verified before the catalog takes it in.
- One append is in flight at a time; what waits meanwhile goes into the next entry together.
- An append that finds its place taken reads the winner, verifies it, lets every waiting proposal
  decide again on the new state, and tries the next place. So two hosts cannot both record.
- The entry is ours when the stored bytes equal what was sent; never by assumption.
- An append whose outcome stays open is reported as not done. Should it have landed after all, the
  next reading finds it, and the repeated proposal sees its fact recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import ledger_key, ledger_prefix, parse_ledger_key
from walarchiver.errors import (
    KeyTaken,
    LedgerBroken,
    LedgerContended,
    ObjectMissing,
    ShuttingDown,
    WalarchiverError,
)
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry
from walarchiver.format.entry import ENTRY_BYTES_MAX, RECORDS_MAX
from walarchiver.format.keyring import Keyring
from walarchiver.format.records import Record
from walarchiver.format.signed import Signer
from walarchiver.log import get_log
from walarchiver.ports import Clock, ObjectStore, StoredVersion

log = get_log("ledger")

_TRIES_MAX = 64


class Keyrings(Protocol):
    """Verified keyrings; reads the store again when one is asked for that is not known."""

    def known(self) -> Mapping[int, Keyring]: ...

    def refresh(self) -> Mapping[int, Keyring]: ...


@dataclass(frozen=True, slots=True)
class Writer:
    """Who extends the chain: the key, this process's random id, and its clock."""

    signer: Signer
    boot: str
    clock: Clock


@dataclass(frozen=True, slots=True)
class Proposal:
    """Facts somebody wants recorded.

    `decide` sees the catalog at the head of the chain and returns the records to append: none
    when the facts are there already. It raises to refuse, and is asked again after a lost race.
    Proposals with the same `subject` never go into one entry.
    """

    subject: str
    decide: Callable[[Catalog], tuple[Record, ...]]


def fact(subject: str, record: Record) -> Proposal:
    """A proposal that nothing can contradict."""
    return Proposal(subject, lambda _catalog: (record,))


@dataclass(slots=True)
class _Batch:
    """What one try of an append carries."""

    records: list[Record] = field(default_factory=list)
    members: list[int] = field(default_factory=list)


class Ledger:
    """One cluster's chain. Blocking and thread-safe; `LedgerQueue` gives it to asyncio."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        repo: str,
        system: str,
        catalog: Catalog,
        keyrings: Keyrings,
        writer: Writer | None = None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> None:
        """`observe` is told each step of an append; tests use it to stop at any of them."""
        self.store = store
        self.system = system
        self.catalog = catalog
        self._repo = repo
        self._keyrings = keyrings
        self._writer = writer
        self._observe = observe
        self._lock = threading.RLock()
        self._anchored = False

    # --- reading -------------------------------------------------------------------------------

    def state(self) -> ChainState:
        """The chain state that the catalog stands at."""
        return self.catalog.chain_state(self._repo, self.system)

    def _judge(self, state: ChainState, seq: int, raw: bytes) -> Accepted | Void:
        """`accept`, after reading the keyrings anew when the entry names one that is not known."""
        verdict = accept(state, seq, raw, self._keyrings.known())
        if isinstance(verdict, Void) and verdict.missing_keyring is not None:
            verdict = accept(state, seq, raw, self._keyrings.refresh())
        return verdict

    def refresh(self) -> ChainState:
        """Read and verify everything new; the chain state at the head.

        Raises LedgerBroken, StoreUnavailable, StoreDenied. What was read before a failure stays.
        """
        with self._lock:
            self._check_anchor()
            state = self.state()
            listing = self.store.list_versions(
                ledger_prefix(self.system),
                start_after=ledger_key(self.system, state.next_seq - 1) if state.next_seq else "",
            )
            for key, versions in itertools.groupby(listing, key=lambda version: version.key):
                name = parse_ledger_key(key)
                if name is None:
                    continue
                seq = name.seq
                if seq > state.next_seq:
                    raise LedgerBroken(
                        f"entry {state.next_seq} of system {self.system} is missing before entry {seq}"
                    )
                state = self._take(state, seq, list(versions))
            return state

    def _check_anchor(self) -> None:
        """Once per process: is the catalog's head still what the store holds? Else start anew."""
        if self._anchored:
            return
        state = self.state()
        if state.next_seq:
            head = state.next_seq - 1
            expected = self.catalog.entry_sha256(head)
            key = ledger_key(self.system, head)
            bodies = self._bodies([v for v in self.store.list_versions(key) if v.key == key])
            if not any(hashlib.sha256(body).hexdigest() == expected for body in bodies):
                self.catalog.clear()
        self._anchored = True

    def _bodies(self, versions: Sequence[StoredVersion]) -> Iterator[bytes]:
        """The distinct stored contents of a name, the oldest first (listings give the newest first)."""
        seen: set[bytes] = set()
        for version in reversed(versions):
            if version.is_delete_marker:
                continue
            body = self.store.get(version.key, version_id=version.version_id, bytes_max=ENTRY_BYTES_MAX)
            if body is not None and body not in seen:
                seen.add(body)
                yield body

    def _take(self, state: ChainState, seq: int, versions: Sequence[StoredVersion]) -> ChainState:
        bodies = list(self._bodies(versions))
        if not bodies:
            raise ObjectMissing(f"entry {seq} of system {self.system} is listed but has no readable version")
        verdicts = [self._judge(state, seq, body) for body in bodies]
        good = [
            (body, verdict)
            for body, verdict in zip(bodies, verdicts, strict=True)
            if isinstance(verdict, Accepted)
        ]
        if len(good) > 1:
            raise LedgerBroken(
                f"entry {seq} of system {self.system} has {len(good)} different versions that verify"
            )
        if good:
            body, verdict = good[0]
            self._apply(seq, body, verdict)
            return verdict.state
        void = verdicts[0]
        assert isinstance(void, Void)
        log.error("void ledger entry", system=self.system, seq=seq, reason=void.why)
        self.catalog.apply(seq=seq, sha256=void.sha256, time_us=0, writer="", records=(), void=True)
        return void.state

    def _apply(self, seq: int, body: bytes, verdict: Accepted) -> None:
        self.catalog.apply(
            seq=seq,
            sha256=hashlib.sha256(body).hexdigest(),
            time_us=verdict.entry.time,
            writer=verdict.entry.writer,
            records=verdict.entry.records,
        )

    # --- appending -----------------------------------------------------------------------------

    def commit(self, proposals: Sequence[Proposal]) -> list[WalarchiverError | None]:
        """Record what the proposals decide; for each, None (recorded or there already) or its refusal.

        Raises what concerns all of them: StoreUnavailable (outcome open), LedgerContended,
        LedgerBroken.
        """
        outcomes: list[WalarchiverError | None] = [None] * len(proposals)
        waiting = list(range(len(proposals)))
        with self._lock:
            if self.state().next_seq == 0 or not self._anchored:
                self.refresh()
            for _ in range(_TRIES_MAX):
                batch = self._gather(proposals, waiting, outcomes)
                if not batch.records:
                    waiting = [index for index in waiting if index not in batch.members]
                    if not waiting:
                        return outcomes
                    continue
                if self._append(batch.records):
                    waiting = [index for index in waiting if index not in batch.members]
                    if not waiting:
                        return outcomes
        raise LedgerContended(
            f"lost the race for the next ledger entry of system {self.system} {_TRIES_MAX} times"
        )

    def _gather(
        self, proposals: Sequence[Proposal], waiting: Sequence[int], outcomes: list[WalarchiverError | None]
    ) -> _Batch:
        batch = _Batch()
        subjects: set[str] = set()
        for index in waiting:
            proposal = proposals[index]
            if proposal.subject in subjects:
                continue
            outcomes[index] = None
            try:
                records = proposal.decide(self.catalog)
            except WalarchiverError as refusal:
                outcomes[index] = refusal
                batch.members.append(index)
                continue
            fresh = [record for record in records if record not in batch.records]
            if batch.records and len(batch.records) + len(fresh) > RECORDS_MAX:
                break
            subjects.add(proposal.subject)
            batch.records.extend(fresh)
            batch.members.append(index)
        return batch

    def _append(self, records: Sequence[Record]) -> bool:
        """Try the next place in the chain: True when our entry is there, False when another's is."""
        if self._writer is None:
            raise LedgerBroken("this host has no signing key, so it cannot extend the ledger")
        state = self.state()
        seq = state.next_seq
        writer = self._writer
        raw = build_entry(
            state, records, time_us=writer.clock.now_us(), boot=writer.boot, signer=writer.signer
        )
        verdict = self._judge(state, seq, raw)
        if isinstance(verdict, Void):
            raise LedgerBroken(
                f"our own entry {seq} would not verify: {verdict.why}",
                hint="Is this host's signing key in the keyring as a writer for this cluster?",
            )
        key = ledger_key(self.system, seq)
        self._observe("ledger: before put")
        try:
            self.store.put_new(key, raw)
        except KeyTaken:
            stored = list(self._bodies([v for v in self.store.list_versions(key) if v.key == key]))
            if raw not in stored:
                self.refresh()
                return False
        self._observe("ledger: after put")
        self._apply(seq, raw, verdict)
        self._observe("ledger: after apply")
        return True

    def rebuild(self, progress: Callable[[int], None] = lambda _seq: None) -> ChainState:
        """Drop the projection and make it again from the repository alone."""
        with self._lock:
            self.catalog.clear()
            self._anchored = True
            state = self.refresh()
            progress(state.next_seq)
            return state


class LedgerQueue:
    """Group commit: hands waiting proposals to the ledger, one append in flight."""

    def __init__(self, ledger: Ledger, executor: Executor, *, waiting_max: int = 4096) -> None:
        self.ledger = ledger
        self._executor = executor
        self._waiting: list[tuple[Proposal, asyncio.Future[None]]] = []
        self._waiting_max = waiting_max
        self._wake = asyncio.Event()
        self._closed = False

    async def submit(self, proposal: Proposal) -> None:
        """Return once the proposal's facts are durable in the ledger.

        Raises its refusal, or what stopped the append.
        """
        if self._closed:
            raise ShuttingDown("the ledger takes no new entries: the server is stopping")
        if len(self._waiting) >= self._waiting_max:
            raise LedgerContended(f"{len(self._waiting)} facts wait for the ledger already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((proposal, future))
        self._wake.set()
        await future

    async def run(self) -> None:
        """Serve until cancelled or closed and empty."""
        loop = asyncio.get_running_loop()
        while not (self._closed and not self._waiting):
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            taken, self._waiting = (
                self._waiting[:RECORDS_MAX],
                self._waiting[RECORDS_MAX:],
            )
            proposals = [proposal for proposal, _ in taken]
            try:
                outcomes = await loop.run_in_executor(self._executor, self.ledger.commit, proposals)
            except WalarchiverError as error:
                outcomes = [error] * len(taken)
            for (_, future), outcome in zip(taken, outcomes, strict=True):
                if future.done():
                    continue
                if outcome is None:
                    future.set_result(None)
                else:
                    future.set_exception(outcome)

    def close(self) -> None:
        """Take nothing new; `run` returns once what waits is done."""
        self._closed = True
        self._wake.set()
