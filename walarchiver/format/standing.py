"""Which of several records of one file name is in force.

Rules (docs/format.md, `supersede`):
- The first record of a name is the file; one with another digest changes nothing by itself.
- A `supersede` puts the first earlier record with digest `new` in its place, when `old` is the digest
  in force; any other changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from walarchiver.format.records import HistoryRecord, LabelRecord, SupersedeRecord, WalRecord

FileRecord = WalRecord | HistoryRecord | LabelRecord


def in_force(records: Iterable[FileRecord | SupersedeRecord]) -> FileRecord | None:
    """The record that stands for a file, from all records of just its name in the chain's order."""
    return standings(records)[0]


def standings(
    records: Iterable[FileRecord | SupersedeRecord],
) -> tuple[FileRecord | None, tuple[SupersedeRecord, ...]]:
    """As `in_force`, and the `supersede` records that changed anything, in their order."""
    by_digest: dict[str, FileRecord] = {}
    standing: FileRecord | None = None
    applied: list[SupersedeRecord] = []
    for record in records:
        if not isinstance(record, SupersedeRecord):
            by_digest.setdefault(record.digest, record)
            standing = standing or record
        elif standing is not None and standing.digest == record.old and record.new in by_digest:
            standing = by_digest[record.new]
            applied.append(record)
    return standing, tuple(applied)
