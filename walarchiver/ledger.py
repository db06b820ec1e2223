"""Ledger: extends one cluster's chain of signed entries, which `ChainReader` reads and verifies.

Rules (docs/format.md, "Ledger"):
- One append is in flight at a time; what waits meanwhile goes into the next entry together.
- An append that finds its place taken reads the winner, verifies it, lets every waiting proposal
  decide again on the new state, and tries the next place. So two hosts cannot both record. What is
  decided on one state is never appended behind another, also when processes share a catalog.
- The entry is ours when the stored bytes equal what was sent; never by assumption.
- An append whose outcome stays open is reported as not done. Should it have landed after all, the
  next reading finds it, and the repeated proposal sees its fact recorded.
- Where other hosts append, too, what an entry follows and what stands behind it is looked at once more
  after the create: an entry that was deleted meanwhile leaves a place that two hosts can fill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from walarchiver.catalog import Catalog
from walarchiver.chainreader import ChainReader, Keyrings
from walarchiver.core.objectname import ROLL_ENTRIES, ledger_key
from walarchiver.errors import (
    KeyTaken,
    LedgerBroken,
    LedgerContended,
    WalarchiverError,
    WriterRevoked,
)
from walarchiver.format.chain import ChainState, Void, build_entry
from walarchiver.format.entry import RECORDS_MAX
from walarchiver.format.keyring import Role
from walarchiver.format.records import Record
from walarchiver.format.signed import Signer
from walarchiver.ports import Clock, ObjectStore
from walarchiver.remembered import Dropped, dropped

_TRIES_MAX = 64


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
    members: set[int] = field(default_factory=set)


class Ledger:
    """One cluster's chain. Blocking and thread-safe; `LedgerQueue` (ledgerqueue.py) gives it to asyncio."""

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
        block: int = ROLL_ENTRIES,
    ) -> None:
        """`observe` is told each step of an append; tests use it to stop at any of them.

        `block` is the format's number of entries in a roll-up; tests take a smaller one.
        """
        self.store = store
        self.repo = repo
        self.system = system
        self.catalog = catalog
        self.block = block
        self._reader = ChainReader(
            store=store, repo=repo, system=system, catalog=catalog, keyrings=keyrings, block=block
        )
        self._keyrings = keyrings
        self._writer = writer
        self._observe = observe
        self._lock = threading.RLock()
        self._shared = False
        """Another key was seen to sign entries that ours follow."""

    # --- reading -------------------------------------------------------------------------------

    def state(self) -> ChainState:
        """The chain state that the catalog stands at."""
        return self._reader.state()

    def refresh(self) -> ChainState:
        """Read and verify everything new; the chain state at the head.

        Raises LedgerBroken, StoreUnavailable, StoreDenied. What was read before a failure stays.
        """
        with self._lock:
            return self._reader.refresh()

    @property
    def rolled_up(self) -> frozenset[int]:
        """First numbers of the blocks that the last reading took from roll-ups."""
        return frozenset(self._reader.rolled)

    @property
    def refused_rollups(self) -> Mapping[int, str]:
        """Roll-ups met so far that are not believed, by their first number, and why."""
        return self._reader.refused

    # --- appending -----------------------------------------------------------------------------

    def commit(self, proposals: Sequence[Proposal]) -> list[WalarchiverError | None]:
        """Record what the proposals decide; for each, None (recorded or there already) or its refusal.

        Raises what concerns all of them: StoreUnavailable (outcome open), LedgerContended,
        LedgerBroken.
        """
        outcomes: list[WalarchiverError | None] = [None] * len(proposals)
        waiting = list(range(len(proposals)))
        with self._lock:
            if self.state().next_seq == 0 or not self._reader.whole:
                self.refresh()
            lost = 0
            while waiting:
                with self.catalog.snapshot():  # what is decided holds for just this head
                    state = self.state()
                    batch = self._gather(proposals, waiting, outcomes)
                if batch.records and not self._append(state, batch.records):
                    lost += 1
                    if lost == _TRIES_MAX:
                        raise LedgerContended(
                            f"lost the race for the next ledger entry of system {self.system} {lost} times"
                        )
                    continue
                waiting = [index for index in waiting if index not in batch.members]
        return outcomes

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
                batch.members.add(index)
                continue
            fresh = [record for record in records if record not in batch.records]
            if batch.records and len(batch.records) + len(fresh) > RECORDS_MAX:
                break
            if records:
                subjects.add(proposal.subject)
            batch.records.extend(fresh)
            batch.members.add(index)
        return batch

    def _append(self, state: ChainState, records: Sequence[Record]) -> bool:
        """Try the next place in the chain: True when our entry is there, False when another's is."""
        if self._writer is None:
            raise LedgerBroken("this host has no signing key, so it cannot extend the ledger")
        seq = state.next_seq
        writer = self._writer
        raw = build_entry(
            state, records, time_us=writer.clock.now_us(), boot=writer.boot, signer=writer.signer
        )
        verdict = self._reader.judge(state, seq, raw)
        if isinstance(verdict, Void):
            raise self._refused_entry(seq, verdict)
        self._observe("ledger: before put")
        try:
            self.store.put_new(ledger_key(self.system, seq), raw)
        except KeyTaken:
            if all(content.body != raw for content in self._reader.entries.at(seq)):
                self.refresh()
                return False
        self._observe("ledger: after put")
        if self._is_shared(state, writer):
            self._reader.confirm(state, verdict)
        self._reader.apply(verdict)
        self._observe("ledger: after apply")
        return True

    def _is_shared(self, state: ChainState, writer: Writer) -> bool:
        """Whether others append to this chain, too, as far as this process could see."""
        last = state.next_seq - 1 - len(state.voids)
        self._shared = self._shared or self.catalog.entry_writer(last) not in (None, writer.signer.id)
        return self._shared

    def _refused_entry(self, seq: int, verdict: Void) -> WalarchiverError:
        """Why our own entry would be void: this key was removed from the keyring, or something is wrong."""
        assert self._writer is not None
        writer, keyrings = self._writer.signer.id, self._keyrings.known()
        keyring = keyrings.get(max(self.state().keyring_n, 1)) or keyrings[max(keyrings)]
        if not any(keyring.has_role(role, writer, self.system) for role in (Role.WRITER, Role.ADMIN)):
            return WriterRevoked(
                f"key {writer} is neither writer nor admin of system {self.system} in keyring {keyring.n}"
            )
        return LedgerBroken(f"our own entry {seq} would not verify: {verdict.why}")

    def rebuild(self, drop: tuple[int, int] | None = None) -> Dropped | None:
        """Make the projection again from the repository alone, and put it in the old one's place.

        `drop`: first and last number of the entries that the store lacks, by somebody who accepts that;
        returned is what was dropped. Raises LedgerRewound when just these were not named, and leaves the
        old one. Other processes that share the file see the old one until the new one is whole.
        """
        found: list[Dropped] = []

        def judge(fresh: Catalog) -> None:
            lost = dropped(self.catalog, fresh)
            if lost is not None:
                if lost.range != drop:
                    raise lost.refusal(self.system, self.store.url)
                found.append(lost)

        with self._lock:
            self._reader.rebuild(judge)
            self.refresh()
        return found[0] if found else None
