"""The questions of a version index whose base lies in Parquet parts, and its changes in SQLite.

Rules:
- Of a key of which anything changed since the base was written, all rows are in SQLite, and its rows in the
  base are shadowed: they count for nothing.
- Answers of both come in key order and are merged; sums are those of the base, less what is shadowed.
- All is one state of the index: the list of parts is read in the same transaction.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from walarchiver.bucketports import Change, Totals, Uncertain
from walarchiver.core.keyhistory import shown
from walarchiver.core.version import MultipartTime, Row, StoreMs
from walarchiver.evidence.indexrow import (
    NULL,
    ORDER_CONFLICT,
    REINSTATED,
    UNKNOWN_BEGIN,
    Stored,
    key_bytes,
    key_text,
    row_of,
)
from walarchiver.evidence.parquetparts import Part, Shelf
from walarchiver.evidence.sqlitequestions import Bounds, Questions, collected, doubts_in

_KEYS_AT_ONCE = 20_000
_CURRENT = "begin <= ? AND until > ? AND size IS NOT NULL"
_SHADOW_TOTALS = (
    "SELECT count(size), coalesce(sum(size), 0), count(gone_by) FROM shadow"
    " WHERE key>=? AND key<? AND until>? AND begin<=? AND size IS NOT NULL"
)
_DOUBTFUL = (
    f"(flags & {REINSTATED} = 0 AND begin > ? AND begin <= ?)"
    f" OR (flags & {NULL} <> 0 AND begin > ?) OR (flags & {ORDER_CONFLICT} <> 0 AND begin <= ?)"
    f" OR (flags & {UNKNOWN_BEGIN} <> 0 AND begin <= ? AND until > ?)"
    " OR (gone_after < ? AND begin <= ? AND until > ?)"
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class ParquetQuestions(Questions):
    """Asks one connection, and the parts that it names."""

    shelf: Shelf
    parts: tuple[Part, ...]

    def shadows(self, within: Bounds) -> Iterator[bytes]:
        select = "SELECT DISTINCT key FROM shadow WHERE key>=? AND key<? ORDER BY key"
        for (key,) in self.db.execute(select, within):
            yield key

    def visible(self, lines: Iterable[tuple[bytes, _T]], within: Bounds) -> Iterator[tuple[bytes, _T]]:
        """Those lines of the base, in key order, whose keys are not shadowed."""
        shadows = self.shadows(within)
        shadow = next(shadows, None)
        for line in lines:
            while shadow is not None and shadow < line[0]:
                shadow = next(shadows, None)
            if shadow != line[0]:
                yield line

    def known(self, first: bytes, end: bytes, rows_max: int) -> tuple[dict[bytes, list[Stored]], bytes]:
        """`Base` for taking listings over."""
        known: dict[bytes, list[Stored]] = {}
        count, last = 0, first
        for key, row in islice(self.shelf.rows(self.parts, (first, end), rows_max=rows_max), rows_max):
            known.setdefault(key, []).append(row)
            count, last = count + 1, key
        if count == rows_max:
            known.update(self.shelf.histories(self.parts, [last]))
            end = last + b"\0"
        for key in self.shadows((first, end)):
            known.pop(key, None)
        return known, end

    def several(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        """The histories of many keys, so many at once."""
        coming = iter(keys)
        while names := list(islice(coming, _KEYS_AT_ONCE)):
            stored = {name: self.stored(key_bytes(name)) for name in names}
            missing = {key_bytes(name) for name, rows in stored.items() if not rows}
            if missing:
                ends = (min(missing), max(missing) + b"\0")
                missing.difference_update(self.shadows(ends))
            if missing and self.parts:
                for key, rows in self.shelf.histories(self.parts, list(missing)).items():
                    stored[key_text(key)] = rows
            for name in names:
                yield name, self.rows(name, stored[name])

    def entries_there(self, within: Bounds) -> Iterator[tuple[bytes, int]]:
        counted = self.shelf.select(
            self.parts,
            "key, count(*)",
            f"gone_by IS NULL AND flags & {REINSTATED} = 0",
            (),
            within,
            tail="GROUP BY key ORDER BY key",
        )
        base = ((key_bytes(str(key)), int(str(count))) for key, count in counted)
        return heapq.merge(Questions.entries_there(self, within), self.visible(base, within))

    def as_of(self, moment: StoreMs, within: Bounds) -> Iterator[Row]:
        habit = self.habit()
        rows = self.shelf.rows(self.parts, within, condition=_CURRENT, values=(moment, moment))
        base = (
            shown(row_of(key_text(key), row, self.name), habit) for key, row in self.visible(rows, within)
        )
        here = Questions.as_of(self, moment, within)
        return heapq.merge(here, base, key=lambda row: row.entry.key)

    def totals(self, moment: StoreMs, within: Bounds) -> Totals:
        here = Questions.totals(self, moment, within)
        columns = ("count(*)", "sum(size)", "count(gone_by)")
        base = self.shelf.sums(self.parts, columns, _CURRENT, (moment, moment), within)
        less = self.db.execute(_SHADOW_TOTALS, (*within, moment, moment)).fetchone()
        both = [a - b for a, b in zip(base, less, strict=True)]
        return Totals(here.objects + both[0], here.bytes + both[1], here.gone + both[2])

    def diff(self, earlier: StoreMs, later: StoreMs, within: Bounds) -> Iterator[Change]:
        # Rows that were current at one of the moments only: who was at both did not change.
        condition = "size IS NOT NULL AND (begin <= ? AND until > ?) <> (begin <= ? AND until > ?)"
        rows = self.shelf.rows(
            self.parts, within, condition=condition, values=(earlier, earlier, later, later)
        )
        base = self.changes(self.visible(rows, within), earlier, later)
        here = Questions.diff(self, earlier, later, within)
        return heapq.merge(here, base, key=lambda change: change.key)

    def uncertain(self, moment: StoreMs, within: Bounds, band_ms: int) -> Iterator[Uncertain]:
        is_end_shown = self.habit() is MultipartTime.COMPLETION
        values = (moment - band_ms, *(moment for _ in range(8)))
        found = self.shelf.rows(self.parts, within, condition=f"({_DOUBTFUL})", values=values)
        base = collected(
            doubt
            for key, row in self.visible(found, within)
            for doubt in doubts_in(key, row, moment, band_ms=band_ms, is_end_shown=is_end_shown)
        )
        here = Questions.uncertain(self, moment, within, band_ms)
        return heapq.merge(here, base, key=lambda one: one.key)
