"""What a catalog remembers of a chain, held against what the store shows of it now.

Rules:
- The last valid entry stands for all before it, since each names the hash of the one before. Void ones
  are nobody's, and may go.
- Something lost is told by what it recorded: names of WAL files and base backups, not only numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.errors import LedgerRewound

_FILES = frozenset({"wal", "history", "label"})
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Dropped:
    """Entries that a catalog has and the chain in the store does not have."""

    first: int
    last: int
    head: int | None
    """The last entry of the chain in the store; None when it has none."""
    records: Mapping[str, int]
    """What they record, by kind."""
    files: tuple[str, ...]
    """WAL files that nothing else records."""
    backups: tuple[str, ...]
    """Base backups that nothing else records."""

    @property
    def range(self) -> tuple[int, int]:
        return self.first, self.last

    def refusal(self, system: str, url: str) -> LedgerRewound:
        """Says what would be lost, and the words that accept just that."""
        head = "is empty" if self.head is None else f"ends with entry {self.head}"
        return LedgerRewound(
            f"the ledger of system {system} in {url} {head} and lacks {self}",
            hint="Look for older versions and copies of these entries. If they are lost for good: "
            f"`walarchiver catalog rebuild --drop {self.first}..{self.last}`, then take a base backup.",
        )

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.records.items()))
        text = f"entries {self.first}..{self.last} ({kinds} records)"
        lost = [*self.backups, *self.files]
        if lost:
            more = f" and {len(lost) - _NAMED_MAX} more" if len(lost) > _NAMED_MAX else ""
            text += f", recorded nowhere else: {', '.join(lost[:_NAMED_MAX])}{more}"
        return text


def rewound(seq: int, sha256: str, system: str, url: str) -> LedgerRewound:
    """The error for an entry that was read earlier."""
    return LedgerRewound(
        f"entry {seq} of system {system}, read earlier, is no longer in {url} (its SHA-256: {sha256})"
    )


def must_hold(fresh: Catalog, known: tuple[int, str] | None, system: str, url: str) -> None:
    """Raises LedgerRewound unless `known` (number and hash) is a valid entry of the chain just read."""
    if known is not None and not fresh.holds(*known):
        raise rewound(*known, system, url)


def dropped(known: Catalog, fresh: Catalog) -> Dropped | None:
    """What `known` has and the chain just read lacks; None when it lacks nothing."""
    with known.snapshot():
        newest = known.newest_valid()
        if newest is None or fresh.holds(*newest):
            return None
        low, high = -1, newest[0]  # up to `low` they agree, up to `high` they do not
        while high - low > 1:
            middle = (low + high) // 2
            entry = known.newest_valid(middle)
            if entry is None or fresh.holds(*entry):
                low = middle
            else:
                high = middle
        found = known.recorded_from(high)
    head = fresh.newest_valid()
    return Dropped(
        first=high,
        last=newest[0],
        head=None if head is None else head[0],
        records=Counter(kind for kind, _ in found),
        files=_lost(found, frozenset(name for kind in _FILES for name in fresh.names(kind)), _FILES),
        backups=_lost(found, frozenset(fresh.names("backup")), frozenset({"backup"})),
    )


def _lost(found: list[tuple[str, str]], elsewhere: frozenset[str], kinds: frozenset[str]) -> tuple[str, ...]:
    names = dict.fromkeys(name for kind, name in found if kind in kinds)
    return tuple(name for name in names if name not in elsewhere)
