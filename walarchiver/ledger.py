"""Ledger: reads, verifies and extends one cluster's chain of signed entries.

Rules (docs/format.md, "Ledger"):
- The chain is read in order and every entry verified before the catalog takes it in.
- One append is in flight at a time; what waits meanwhile goes into the next entry together.
- An append that finds its place taken reads the winner, verifies it, lets every waiting proposal
  decide again on the new state, and tries the next place. So two hosts cannot both record. What is
  decided on one state is never appended behind another, also when processes share a catalog.
- The entry is ours when the stored bytes equal what was sent; never by assumption.
- An append whose outcome stays open is reported as not done. Should it have landed after all, the
  next reading finds it, and the repeated proposal sees its fact recorded.
- No stranger's object can stop a chain: one that is no valid entry is void where its number is due
  (however long it is: it is hashed piece by piece), and is passed over where numbers before it are
  missing. An entry that a member signed behind a missing number means that the chain lost one.
- The listing that shows what is new begins with the newest entry known. One without it (another bucket,
  an empty volume) proves nothing about what is missing, so it is an error.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import ledger_key, ledger_prefix, parse_ledger_key
from walarchiver.errors import (
    KeyTaken,
    LedgerBroken,
    LedgerContended,
    ObjectDamaged,
    ObjectMissing,
    WalarchiverError,
    WriterRevoked,
)
from walarchiver.format.chain import Accepted, ChainState, Void, accept, build_entry, is_from_member, void
from walarchiver.format.entry import ENTRY_BYTES_MAX, RECORDS_MAX
from walarchiver.format.keyring import Keyring, Role
from walarchiver.format.records import Record
from walarchiver.format.signed import Signer
from walarchiver.log import get_log
from walarchiver.ports import Clock, ObjectStore, StoredVersion

log = get_log("ledger")

_TRIES_MAX = 64
_PIECE_BYTES = 8 << 20
"""How much of an object too long to be an entry is held at a time."""


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
    members: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Content:
    """What one version of a ledger name holds; `body` is None when it is too long for an entry."""

    sha256: str
    body: bytes | None


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
        self._read_whole = False
        """The last reading came to the head; until one does, nothing is appended."""
        self._strays: set[tuple[str, str | None]] = set()

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
            self._read_whole = False
            self._check_anchor()
            state = self.state()
            listing = self.store.list_versions(
                ledger_prefix(self.system),
                start_after=ledger_key(self.system, state.next_seq - 2) if state.next_seq > 1 else "",
            )
            begun = state.next_seq
            unseen = begun - 1 if begun and not state.voids else None
            for key, versions in itertools.groupby(listing, key=lambda version: version.key):
                name = parse_ledger_key(key)
                if name is None:
                    continue
                if name.seq < begun:
                    if any(not version.is_delete_marker for version in versions):
                        unseen = None
                elif name.seq == state.next_seq:
                    state = self._take(state, name.seq, list(versions))
                elif not self._is_stray(name.seq, list(versions)):
                    if self._contents(ledger_key(self.system, state.next_seq)):
                        return self.refresh()  # written while the listing was under way
                    raise LedgerBroken(
                        f"entry {state.next_seq} of system {self.system} is missing before entry {name.seq}"
                    )
            if unseen is not None:
                raise LedgerBroken(
                    f"entry {unseen} of system {self.system}, read earlier, is no longer in {self.store.url}",
                    hint="Is it the same bucket or volume? Nothing is appended, or called absent, on this.",
                )
            self._read_whole = True
            return state

    def _is_stray(self, seq: int, versions: Sequence[StoredVersion]) -> bool:
        """Whether what stands behind a missing number is no member's; such a one says nothing."""
        for version in versions:
            place = (version.key, version.version_id)
            if version.is_delete_marker or place in self._strays:
                continue
            found = self._content(version)
            if found is not None and found.body is not None and self._is_members(seq, found.body):
                return False
            log.error("stray object behind the ledger's head", system=self.system, seq=seq)
            self._strays.add(place)
        return True

    def _is_members(self, seq: int, raw: bytes) -> bool:
        return any(
            is_from_member(raw, repo=self._repo, system=self.system, seq=seq, keyrings=keyrings())
            for keyrings in (self._keyrings.known, self._keyrings.refresh)
        )

    def _check_anchor(self) -> None:
        """Once per process: is the catalog's head still what the store holds? Else start anew."""
        if self._anchored:
            return
        state = self.state()
        if state.next_seq:
            head = state.next_seq - 1
            expected = self.catalog.entry_sha256(head)
            contents = self._contents(ledger_key(self.system, head))
            if all(content.sha256 != expected for content in contents):
                log.error("the store does not hold the entry read last", system=self.system, seq=head)
                self.catalog.clear()
        self._anchored = True

    def _contents(self, key: str) -> list[_Content]:
        """The distinct stored contents of a name, the oldest first."""
        return self._distinct([v for v in self.store.list_versions(key) if v.key == key])

    def _distinct(self, versions: Sequence[StoredVersion]) -> list[_Content]:
        """The distinct contents among the versions of a name (a listing gives the newest first)."""
        found = (self._content(version) for version in reversed(versions) if not version.is_delete_marker)
        return list({content.sha256: content for content in found if content is not None}.values())

    def _content(self, version: StoredVersion) -> _Content | None:
        """What a version holds; None when it is gone by now."""
        key, version_id = version.key, version.version_id
        if version.size <= ENTRY_BYTES_MAX:
            body = self.store.get(key, version_id=version_id, bytes_max=ENTRY_BYTES_MAX)
            return None if body is None else _Content(hashlib.sha256(body).hexdigest(), body)
        hasher = hashlib.sha256()
        start = 0
        while start < version.size:
            piece = self.store.get_range(key, start=start, length=_PIECE_BYTES, version_id=version_id)
            if piece is None:
                return None
            if not piece:
                raise ObjectDamaged(f"{key} gave {start} of its {version.size} bytes")
            hasher.update(piece)
            start += len(piece)
        return _Content(hasher.hexdigest(), None)

    def _take(self, state: ChainState, seq: int, versions: Sequence[StoredVersion]) -> ChainState:
        contents = self._distinct(versions)
        if not contents:
            raise ObjectMissing(f"entry {seq} of system {self.system} is listed but has no readable version")
        verdicts = [
            void(state, seq, content.sha256, "longer than an entry can be")
            if content.body is None
            else self._judge(state, seq, content.body)
            for content in contents
        ]
        good = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
        if len(good) > 1:
            raise LedgerBroken(
                f"entry {seq} of system {self.system} has {len(good)} different versions that verify"
            )
        if good:
            self._apply(seq, good[0])
            return good[0].state
        oldest = verdicts[0]
        assert isinstance(oldest, Void)
        log.error("void ledger entry", system=self.system, seq=seq, reason=oldest.why)
        self.catalog.apply(seq=seq, sha256=oldest.sha256, time_us=0, writer="", records=(), void=True)
        return oldest.state

    def _apply(self, seq: int, verdict: Accepted) -> None:
        self.catalog.apply(
            seq=seq,
            sha256=verdict.entry.sha256,
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
            if self.state().next_seq == 0 or not self._read_whole:
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
        verdict = self._judge(state, seq, raw)
        if isinstance(verdict, Void):
            raise self._refused_entry(seq, verdict)
        key = ledger_key(self.system, seq)
        self._observe("ledger: before put")
        try:
            self.store.put_new(key, raw)
        except KeyTaken:
            if all(content.body != raw for content in self._contents(key)):
                self.refresh()
                return False
        self._observe("ledger: after put")
        self._apply(seq, verdict)
        self._observe("ledger: after apply")
        return True

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

    def rebuild(self, progress: Callable[[int], None] = lambda _seq: None) -> ChainState:
        """Make the projection again from the repository alone, and put it in the old one's place.

        Other processes that share the file see the old one until the new one is whole.
        """
        with self._lock:
            fresh = Catalog(None)
            try:
                Ledger(
                    store=self.store,
                    repo=self._repo,
                    system=self.system,
                    catalog=fresh,
                    keyrings=self._keyrings,
                ).refresh()
                self.catalog.replace_with(fresh)
            finally:
                fresh.close()
            self._anchored = True
            state = self.refresh()
            progress(state.next_seq)
            return state
