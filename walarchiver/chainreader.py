"""Reads one cluster's chain into its catalog: roll-ups where there are any, then the entries one by one.

Rules (docs/format.md, "Ledger"):
- The chain is read in order and every entry verified before the catalog takes it in.
- A roll-up goes in whole or not at all. One that is not valid is reported, and its block read by its names.
- What the newest roll-up ends with must be what stands at that number, unless that whole block was pruned;
  otherwise no roll-up is believed and everything is read anew without them.
- No stranger's object can stop a chain: one that is no valid entry is void where its number is due
  (however long it is: it is hashed piece by piece), and is passed over where numbers before it are
  missing. An entry that a member signed behind a missing number means that the chain lost one.
- The listing that shows what is new begins with the newest valid entry known. One without it (another
  bucket, an empty volume) proves nothing about what is missing, so it is an error.
- That holds for what earlier processes left in the catalog, too, until somebody consents (`rebuild`). Only
  a running process that meets a member's entry going on from another one reads the chain anew by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import ROLL_ENTRIES
from walarchiver.entrystore import Content, EntryStore, holds_anything
from walarchiver.errors import LedgerBroken, ObjectMissing, Untrusted
from walarchiver.format.chain import Accepted, ChainState, Void, accept, is_from_member, void
from walarchiver.format.entry import parse_entry
from walarchiver.format.keyring import Keyring
from walarchiver.format.rollup import judge_rollup
from walarchiver.log import get_log
from walarchiver.ports import ObjectStore, StoredVersion
from walarchiver.remembered import must_hold, rewound
from walarchiver.rollupstore import RollupStore

log = get_log("ledger")


class Keyrings(Protocol):
    """Verified keyrings; reads the store again when one is asked for that is not known."""

    def known(self) -> Mapping[int, Keyring]: ...

    def refresh(self) -> Mapping[int, Keyring]: ...


def _place(version: StoredVersion) -> tuple[str, str | None]:
    return version.key, version.version_id


class _RollupsDoubted(Exception):
    """A roll-up that was used does not end as the ledger does; never leaves this module."""


class ChainReader:
    """Blocking, for one thread at a time: `Ledger` holds the lock."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        repo: str,
        system: str,
        catalog: Catalog,
        keyrings: Keyrings,
        block: int = ROLL_ENTRIES,
        rollups: bool = True,
        rebuilds: bool = True,
    ) -> None:
        """`block` is the format's number; tests take a smaller one. Without `rollups` none is looked at.

        `rebuilds`: whether a catalog that was filled earlier may be filled anew.
        """
        self.entries = EntryStore(store, system)
        self.catalog = catalog
        self.block = block
        self.whole = False
        """The last reading came to the head."""
        self.refused: dict[int, str] = {}
        """Roll-ups that were not believed, by their first number, and why."""
        self._shelf = RollupStore(store, repo, system, block)
        self._store = store
        self._repo = repo
        self._system = system
        self._keyrings = keyrings
        self._rollups = rollups
        self._rebuilds = rebuilds
        self.rolled: set[int] = set()
        """First numbers of blocks taken from roll-ups by the reading under way."""
        self._anchored = False
        self._doubted = False
        """What was read in this process was found to be another chain than the store's."""
        self._strays: set[tuple[str, str | None]] = set()

    def state(self) -> ChainState:
        """The chain state that the catalog stands at."""
        return self.catalog.chain_state(self._repo, self._system)

    def judge(self, state: ChainState, seq: int, raw: bytes) -> Accepted | Void:
        """`accept`, after reading the keyrings anew when the entry names one that is not known."""
        verdict = accept(state, seq, raw, self._keyrings.known())
        if isinstance(verdict, Void) and verdict.missing_keyring is not None:
            verdict = accept(state, seq, raw, self._keyrings.refresh())
        return verdict

    def refresh(self) -> ChainState:
        """Read and verify everything new; the chain state at the head.

        Raises LedgerBroken, StoreUnavailable, StoreDenied. What was read before a failure stays.
        """
        self.whole = False
        self._check_anchor()
        known = self.catalog.newest_valid()
        try:
            state = self._read()
        except _RollupsDoubted as doubt:
            log.error("roll-ups not used", system=self._system, reason=str(doubt))
            self._rollups = False
            self.rebuild(self._holding(known))
            state = self._read()
        self.whole = True
        return state

    def rebuild(self, judge: Callable[[Catalog], None]) -> None:
        """Make the projection again from the repository alone, and put it in the old one's place.

        Other processes that share the file see the old one until the new one is whole. `judge` is shown
        the new one before, and may raise: then the old one stays.
        """
        fresh = Catalog(None)
        try:
            ChainReader(
                store=self._store,
                repo=self._repo,
                system=self._system,
                catalog=fresh,
                keyrings=self._keyrings,
                block=self.block,
                rollups=self._rollups,
                rebuilds=False,
            ).refresh()
            judge(fresh)
            self.catalog.replace_with(fresh)
        finally:
            fresh.close()
        self._anchored, self._doubted = True, False

    def _read(self) -> ChainState:
        self.rolled.clear()
        rollups = self._listed_rollups()
        while True:
            state = self.state()
            first = self._shelf.first_of(state.next_seq)
            if first in rollups and self._take_rollup(state, first, rollups.pop(first)):
                continue
            if not self._walk(until=min(rollups, default=None)):
                rollups = self._listed_rollups()
            elif self.state().next_seq not in rollups:
                self._check_behind(rollups)
                return self.state()

    # --- entries one by one ------------------------------------------------------------------------

    def _walk(self, *, until: int | None) -> bool:
        """Take in what stands at the ledger's names, up to number `until`.

        False when somebody wrote while the listing was under way: look again.
        """
        state = self.state()
        begun = state.next_seq
        anchor = begun - 1 - len(state.voids)  # the last valid entry; what is void may go again
        unseen = (anchor, state.prev) if anchor >= 0 else None
        reading = self.entries.read(max(anchor, 0), fetched=begun, until=until)
        with contextlib.closing(reading):
            for seq, versions, contents in reading:
                if seq < begun:
                    if seq == anchor and holds_anything(versions):
                        self._check_rolled(seq, versions)
                        unseen = None
                elif seq == state.next_seq:
                    state = self._take(state, seq, contents())
                elif not self._is_stray(seq, versions):
                    if self._is_there(state.next_seq):
                        return False
                    raise self._missing(state.next_seq, seq)
        if unseen is not None and not self._pruned(anchor):
            raise rewound(*unseen, self._system, self._store.url)
        return True

    def _is_there(self, seq: int) -> bool:
        return bool(self.entries.at(seq)) or self._shelf.first_of(seq) in self._listed_rollups()

    def _missing(self, due: int, behind: int) -> LedgerBroken:
        return LedgerBroken(f"entry {due} of system {self._system} is missing before entry {behind}")

    def _is_stray(self, seq: int, versions: Sequence[StoredVersion]) -> bool:
        """Whether what stands behind a missing number is no member's; such a one says nothing."""
        for version in versions:
            if version.is_delete_marker or _place(version) in self._strays:
                continue
            found = self.entries.content(version)
            if found is not None and found.body is not None and self._is_members(seq, found.body):
                return False
            log.error("stray object behind the ledger's head", system=self._system, seq=seq)
            self._strays.add(_place(version))
        return True

    def _is_members(self, seq: int, raw: bytes) -> bool:
        return any(
            is_from_member(raw, repo=self._repo, system=self._system, seq=seq, keyrings=keyrings())
            for keyrings in (self._keyrings.known, self._keyrings.refresh)
        )

    def _check_anchor(self) -> None:
        """Once per process: does the store hold what the catalog was left with? Raises LedgerRewound.

        An entry that is not at its name may have been pruned into a roll-up: then the whole chain is read.
        """
        if self._anchored:
            return
        known, voids = self.catalog.newest_valid(), self.state().voids
        if known is not None and not self._stands(*known):
            rolled = self._rollups and self._shelf.at(self._shelf.first_of(known[0]))
            if not self._doubted and not rolled:
                raise rewound(*known, self._system, self._store.url)
            self.rebuild(self._holding(None if self._doubted else known))
        elif voids and not self._stands(voids[-1].seq, voids[-1].sha256):
            self.rebuild(self._holding(known))  # what is void may go again, or its place be filled
        self._anchored, self._doubted = True, False

    def _holding(self, known: tuple[int, str] | None) -> Callable[[Catalog], None]:
        return lambda fresh: must_hold(fresh, known, self._system, self._store.url)

    def _stands(self, seq: int, sha256: str) -> bool:
        return any(content.sha256 == sha256 for content in self.entries.at(seq))

    def _take(self, state: ChainState, seq: int, contents: Sequence[Content]) -> ChainState:
        if not contents:
            raise ObjectMissing(f"entry {seq} of system {self._system} is listed but has no readable version")
        verdicts = [
            void(state, seq, content.sha256, "longer than an entry can be")
            if content.body is None
            else self.judge(state, seq, content.body)
            for content in contents
        ]
        good = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
        if len(good) > 1:
            raise LedgerBroken(
                f"entry {seq} of system {self._system} has {len(good)} different versions that verify"
            )
        for content in contents if not good else ():
            if content.body is not None and self._is_members(seq, content.body):
                self._check_ours(content.body)
        return self.apply(good[0] if good else verdicts[0])

    def apply(self, verdict: Accepted | Void) -> ChainState:
        """Take a judged entry into the catalog; the state behind it."""
        if isinstance(verdict, Accepted):
            entry = verdict.entry
            self.catalog.apply(
                seq=entry.seq,
                sha256=entry.sha256,
                time_us=entry.time,
                writer=entry.writer,
                records=entry.records,
            )
        else:
            log.error("void ledger entry", system=self._system, seq=verdict.seq, reason=verdict.why)
            self.catalog.apply(
                seq=verdict.seq, sha256=verdict.sha256, time_us=0, writer="", records=(), void=True
            )
        return verdict.state

    # --- after an append -------------------------------------------------------------------------------

    def confirm(self, before: ChainState, ours: Accepted) -> None:
        """Look again, once our entry is stored: at what it follows, at its name, and behind it.

        Raises LedgerBroken when something was deleted or somebody goes on from another entry: nothing
        of ours may be acknowledged on this. What is there is read anew the next time.
        """
        follows = before.next_seq - 1 - len(before.voids)
        seq = ours.entry.seq
        seen = follows < 0
        for number, versions in self.entries.listed(max(follows, 0)):
            if number == follows:
                seen = before.prev in {content.sha256 for content in self.entries.distinct(versions)}
            elif number == seq and len(versions) > 1:
                raise self._doubt(f"entry {seq} was deleted before ours took its place")
            elif number > seq and not self._goes_on(ours.state, number, versions):
                raise self._doubt(f"entry {number} goes on from another entry {seq} than ours")
        if not seen:
            raise self._doubt(f"entry {follows}, which ours follows, is not there any more")

    def _goes_on(self, state: ChainState, number: int, versions: Sequence[StoredVersion]) -> bool:
        """Whether what stands behind our entry comes from it, or says nothing."""
        for content in self.entries.distinct(versions):
            if content.body is None or not self._is_members(number, content.body):
                continue
            if number > state.next_seq:
                return True  # more than one behind: what is in between is judged when it is read
            return isinstance(self.judge(state, number, content.body), Accepted)
        return True

    def _doubt(self, what: str) -> LedgerBroken:
        self.whole = self._anchored = False
        self._doubted = True
        return LedgerBroken(
            f"ledger of system {self._system}: {what}",
            hint="Who can delete in the ledger? Look for older versions and copies of it, and run "
            "`walarchiver ledger verify`: facts of that entry may have to be archived again.",
        )

    def _check_ours(self, body: bytes) -> None:
        """Hold our reading against the store, when a member's entry does not follow it.

        Raises LedgerBroken when the store holds another entry than was read here: it is read anew then.
        """
        entry = parse_entry(body)
        common = entry.seq - 1 - len(entry.void)
        known = self.catalog.entry_sha256(common) if common >= 0 else None
        if known is None or self._stands(common, known) or self._pruned(common):
            return
        if self._rebuilds:
            self.rebuild(self._holding(None))
        raise LedgerBroken(
            f"entry {common} of system {self._system} is another one than was read here before",
            hint="It was deleted and its place taken. What this host recorded in it and behind it does not "
            "count any more: run `walarchiver status` to see what is missing, and take a base backup.",
        )

    # --- roll-ups ------------------------------------------------------------------------------------

    def _listed_rollups(self) -> dict[int, list[StoredVersion]]:
        """Roll-ups of blocks that are not read to their end, but for what was refused before."""
        found = self._shelf.listed(self.state().next_seq) if self._rollups else {}
        kept = {
            first: [v for v in versions if _place(v) not in self._strays] for first, versions in found.items()
        }
        return {first: versions for first, versions in kept.items() if versions}

    def _take_rollup(self, state: ChainState, first: int, versions: Sequence[StoredVersion]) -> bool:
        """Take in the first valid one of these versions, the oldest first; False when none is."""
        for version in reversed(versions):
            try:
                with self.catalog.together():
                    pieces = self._shelf.unpacked(first, version)
                    known = self.catalog.entry_sha256
                    for verdict in judge_rollup(state, pieces, self.judge, first=first, known=known):
                        self.apply(verdict)
            except Untrusted as error:
                log.error("roll-up not used", system=self._system, first=first, reason=error.message)
                self.refused[first] = error.message
                self._strays.add(_place(version))
            else:
                self.rolled.add(first)
                return True
        return False

    def _check_rolled(self, seq: int, versions: Sequence[StoredVersion]) -> None:
        """The last entry of a roll-up that was used must be what stands at its number."""
        if self._shelf.first_of(seq) in self.rolled:
            expected = self.catalog.entry_sha256(seq)
            if all(content.sha256 != expected for content in self.entries.distinct(versions)):
                raise _RollupsDoubted(f"another entry {seq} stands in the ledger")

    def _pruned(self, seq: int) -> bool:
        """Whether an entry that is not at its name is in a roll-up, and its block has no name left."""
        first = self._shelf.first_of(seq)
        if not self._rollups or seq != first + self.block - 1:
            return False
        left = next((n for n, versions in self.entries.listed(first) if holds_anything(versions)), None)
        bare = left is None or left > seq
        if first in self.rolled:
            if not bare:
                raise _RollupsDoubted(f"entry {left} stands in the ledger, entry {seq} does not")
            return True
        return bare and self._shelf.ends_with(first, self.catalog.entry_sha256(seq))

    def _check_behind(self, rollups: Mapping[int, Sequence[StoredVersion]]) -> None:
        """Raises LedgerBroken when a roll-up behind the head holds what a member signed."""
        due = self.state().next_seq
        for first, versions in rollups.items():
            for version in versions:
                if self._is_members_rollup(first, version):
                    raise self._missing(due, first)
                log.error("stray roll-up behind the ledger's head", system=self._system, first=first)
                self.refused[first] = "behind the ledger's head"
                self._strays.add(_place(version))

    def _is_members_rollup(self, first: int, version: StoredVersion) -> bool:
        """Whether a member of any keyring signed anything in it for just its place."""
        with contextlib.suppress(Untrusted):
            for keyrings in (self._keyrings.known(), self._keyrings.refresh()):
                for seq, raw in enumerate(self._shelf.unpacked(first, version), first):
                    if is_from_member(raw, repo=self._repo, system=self._system, seq=seq, keyrings=keyrings):
                        return True
        return False
