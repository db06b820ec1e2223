"""Audit of one ledger: the whole chain read from the store and verified, believing no catalog.

Rules (docs/format.md, section 5):
- Every entry is judged anew from the keyrings upwards, by the same code that readers use.
- Void entries that a later valid entry names are settled. Those behind the last valid entry are
  not; when a member signed one of them, the chain before it was changed, or a host writes that may
  no longer.
- A chain cannot show that its newest entries were cut off. A checkpoint kept elsewhere (number and
  hash of an entry) can: the chain must hold just that entry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import ledger_key, ledger_prefix, parse_ledger_key
from walarchiver.errors import LedgerBroken, ObjectDamaged
from walarchiver.format.chain import is_from_member
from walarchiver.format.entry import ENTRY_BYTES_MAX
from walarchiver.format.records import KeyringRecord, Record
from walarchiver.ledger import Ledger
from walarchiver.repository import Repository


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An entry that was seen: its number and the hash of its stored bytes."""

    seq: int
    sha256: str

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

    def require(self, checkpoint: Checkpoint) -> None:
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
    """A catalog in memory that keeps a line about each entry it takes in."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        super().__init__(None)
        self._progress = progress
        self.lines: list[AuditedEntry] = []
        self.begun: dict[int, int] = {}
        """Keyring number to the entry that put it into force."""

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
        known = tuple(records)
        fresh = super().apply(
            seq=seq, sha256=sha256, time_us=time_us, writer=writer, records=known, void=void
        )
        if fresh:
            kinds = tuple(record.kind for record in known)
            self.lines.append(AuditedEntry(seq, sha256, time_us, writer, kinds, void))
            for record in known:
                if isinstance(record, KeyringRecord):
                    self.begun.setdefault(record.n, seq)
            self._progress(seq)
        return fresh


def audit_ledger(
    repository: Repository, system: str, progress: Callable[[int], None] = lambda _seq: None
) -> Audit:
    """Read and verify the whole chain; `progress` is told each number.

    Raises LedgerBroken (an entry is missing inside, or two verify), ObjectMissing, Store….
    """
    catalog = _Watched(progress)
    try:
        ledger = Ledger(
            store=repository.store, repo=repository.repo, system=system, catalog=catalog, keyrings=repository
        )
        state = ledger.refresh()
    finally:
        catalog.close()
    return Audit(
        system=system,
        name=state.cluster.name if state.cluster else "",
        entries=tuple(catalog.lines),
        keyrings=tuple((n, catalog.begun.get(n)) for n in sorted(repository.known())),
        strays=_strays(repository, system, state.next_seq),
        forged=_forged(repository, system, [mark.seq for mark in state.voids]),
    )


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
