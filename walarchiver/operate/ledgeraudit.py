"""Audit of one ledger: the whole chain read from the store and verified, believing no catalog.

Rules (docs/format.md, section 5):
- Every entry is judged anew from the keyrings upwards, by the same code that readers use.
- Void entries that a later valid entry names are settled. Those behind the last valid entry are
  not; when a member signed one of them, the chain before it was changed, or a host writes that may
  no longer.
- A chain cannot show that its newest entries were cut off. A checkpoint kept elsewhere (number and
  hash of an entry) can: the chain must hold just that entry.
- Where a block was read from its roll-up, the names that are there still must hold the same entries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import (
    ROLL_ENTRIES,
    ledger_key,
    ledger_prefix,
    parse_ledger_key,
    roll_key,
)
from walarchiver.entrystore import EntryStore
from walarchiver.errors import LedgerBroken, ObjectDamaged
from walarchiver.format.chain import is_from_member
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.format.records import Record
from walarchiver.ledger import Ledger
from walarchiver.repository import Repository


@dataclass(frozen=True, slots=True)
class SeenEntry:
    """An entry that was seen: its number and the hash of its stored bytes; `time_us` says when, where
    that is known (microseconds since 1970 on the clock of whoever saw it)."""

    seq: int
    sha256: str
    time_us: int | None = None

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"


@dataclass(frozen=True, slots=True)
class AuditedEntry:
    """What stands at one number. `time_us` is microseconds since 1970 on the writer's clock; 0,
    without writer and kinds, for a void one."""

    seq: int
    sha256: str
    time_us: int
    writer: str
    kinds: tuple[str, ...]
    void: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """A chain that verified from its first entry to its head."""

    system: str
    name: str
    """The cluster's name; empty when there is no valid entry."""
    entries: tuple[AuditedEntry, ...]
    keyrings: tuple[tuple[int, int | None], ...]
    """Every keyring of the repository, and the entry that put it into force on this chain."""
    strays: tuple[str, ...]
    """Names behind the head that hold something, but no entry of a member."""
    forged: int | None
    """The first unsettled void entry that a member signed."""
    rolled_up: tuple[int, ...] = ()
    """First numbers of the blocks that were read from roll-ups."""
    refused: tuple[str, ...] = ()
    """Roll-ups that are not valid, and why."""
    differing: tuple[int, ...] = ()
    """Numbers at whose name something else stands than in the valid roll-up of their block."""

    def keyring_at(self, seq: int) -> int:
        """The keyring in force at an entry, or at the end of a chain without it."""
        return max((n for n, begun in self.keyrings if begun is not None and begun <= seq), default=0)

    @property
    def valid(self) -> tuple[AuditedEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.void)

    @property
    def voids(self) -> tuple[AuditedEntry, ...]:
        return tuple(entry for entry in self.entries if entry.void)

    @property
    def unsettled(self) -> tuple[AuditedEntry, ...]:
        """Void entries that no valid entry names yet."""
        last = self.valid[-1].seq if self.valid else -1
        return tuple(entry for entry in self.voids if entry.seq > last)

    @property
    def head(self) -> AuditedEntry | None:
        """The last valid entry: what to keep a copy of elsewhere."""
        return self.valid[-1] if self.valid else None

    def require(self, checkpoint: SeenEntry) -> None:
        """Raises LedgerBroken unless the chain holds just that entry, and it is valid."""
        found = next((entry for entry in self.entries if entry.seq == checkpoint.seq), None)
        if found is None:
            head = "empty" if self.head is None else f"at its end with entry {self.head.seq}"
            raise LedgerBroken(
                f"ledger of system {self.system} is {head}, but entry {checkpoint.seq} was seen in it before",
                hint="Its newest entries were removed: look for deleted versions and for copies.",
            )
        if found.void or found.sha256 != checkpoint.sha256:
            state = "void" if found.void else f"{found.sha256}"
            raise LedgerBroken(
                f"entry {checkpoint.seq} of system {self.system} is {state}, not {checkpoint.sha256}",
                hint="The checkpoint was taken of another ledger than this one: trust no plan from it.",
            )


class _Watched(Catalog):
    """A catalog in memory that tells of each entry it takes in, and lists them all in the end."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        super().__init__(None)
        self._progress = progress

    def apply(
        self,
        *,
        seq: int,
        sha256: str,
        time_us: int,
        writer: str,
        records: Iterable[Record],
        void: bool = False,
    ) -> bool:
        self._progress(seq)
        return super().apply(
            seq=seq, sha256=sha256, time_us=time_us, writer=writer, records=records, void=void
        )

    def lines(self) -> Iterator[AuditedEntry]:
        kinds: dict[int, list[str]] = {}
        for seq, kind in self._rows("SELECT seq, kind FROM record ORDER BY seq, idx"):
            kinds.setdefault(int(str(seq)), []).append(str(kind))
        for seq, sha256, time_us, writer, void in self._rows("SELECT * FROM entry ORDER BY seq"):
            number = int(str(seq))
            yield AuditedEntry(
                number, str(sha256), int(str(time_us)), str(writer), tuple(kinds.get(number, ())), bool(void)
            )

    def begun(self) -> dict[int, int]:
        """Keyring number to the entry that put it into force."""
        rows = self._rows("SELECT name, min(seq) FROM record WHERE kind='keyring' GROUP BY name")
        return {int(str(number)): int(str(seq)) for number, seq in rows}


def audit_ledger(
    repository: Repository,
    system: str,
    progress: Callable[[int], None] = lambda _seq: None,
    *,
    block: int = ROLL_ENTRIES,
) -> Audit:
    """Read and verify the whole chain; `progress` is told each number. `block`: entries in a roll-up.

    Raises LedgerBroken (an entry is missing inside, or two verify), ObjectMissing, Store….
    """
    catalog = _Watched(progress)
    try:
        ledger = Ledger(
            store=repository.store,
            repo=repository.repo,
            system=system,
            catalog=catalog,
            keyrings=repository,
            block=block,
        )
        state = ledger.refresh()
        entries, begun = tuple(catalog.lines()), catalog.begun()
    finally:
        catalog.close()
    return Audit(
        system=system,
        name=state.cluster.name if state.cluster else "",
        entries=entries,
        keyrings=tuple((n, begun.get(n)) for n in sorted(repository.known())),
        strays=_strays(repository, system, state.next_seq),
        forged=_forged(repository, system, [mark.seq for mark in state.voids]),
        rolled_up=tuple(sorted(ledger.rolled_up)),
        refused=tuple(
            f"{roll_key(system, first, block)}: {why}"
            for first, why in sorted(ledger.refused_rollups.items())
        ),
        differing=tuple(_differing(repository, ledger, entries)),
    )


def _differing(repository: Repository, ledger: Ledger, entries: Sequence[AuditedEntry]) -> Iterator[int]:
    """Numbers whose name holds something else than the roll-up from which the entry was taken."""
    names = EntryStore(repository.store, ledger.system)
    for first in sorted(ledger.rolled_up):
        for seq, versions in names.listed(first):
            if seq >= first + ledger.block:
                break
            found = {content.sha256 for content in names.distinct(versions)}
            if found and entries[seq].sha256 not in found:
                yield seq


def _strays(repository: Repository, system: str, due: int) -> tuple[str, ...]:
    """Names from number `due` on that hold anything; `refresh` found that no member made it."""
    after = ledger_key(system, due - 1) if due else ""
    found = repository.store.list_versions(ledger_prefix(system), start_after=after)
    keys = {version.key for version in found if not version.is_delete_marker}
    return tuple(sorted(key for key in keys if parse_ledger_key(key) is not None))


def _forged(repository: Repository, system: str, seqs: Sequence[int]) -> int | None:
    """The first of these numbers that holds a member's signed entry for just that place."""
    for seq in seqs:
        with contextlib.suppress(ObjectDamaged):  # too long to be an entry
            raw = repository.store.get(ledger_key(system, seq), bytes_max=ENTRY_BYTES_MAX)
            if raw is not None and is_from_member(
                raw, repo=repository.repo, system=system, seq=seq, keyrings=repository.known()
            ):
                return seq
    return None
