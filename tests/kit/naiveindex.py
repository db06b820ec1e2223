"""The obvious index of a bucket's versions: all rows of a key in a list, every question asked of every row.

What one listing makes of one key's history is core/keyhistory.py here, too (it has tests of its own); what is
naive is everything that an engine does around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from walarchiver.bucketports import (
    Change,
    Doubt,
    Ingested,
    KeyRange,
    Observation,
    Totals,
    Uncertain,
)
from walarchiver.core.keyhistory import absorb, is_stale, placed_again, shown
from walarchiver.core.version import Entry, EntryKind, MultipartTime, Row, StoreMs, Trait


class NaiveIndex:
    """`VersionIndex` in memory."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Row, ...]] = {}
        self._listings: list[tuple[KeyRange, StoreMs]] = []
        self._ended: dict[str, dict[str, StoreMs]] = {}
        self._pending: dict[str, int] = {}
        self._observations: list[Observation] = []
        self._changes = 0

    def ingest(self, keys: KeyRange, entries: Iterable[Entry], *, asked: StoreMs) -> Ingested:
        listed: dict[str, list[Entry]] = {}
        for entry in entries:
            assert entry.key in keys
            listed.setdefault(entry.key, []).append(entry)
        added = gone = revived = 0
        self._changes += 1
        for key in sorted({*listed, *(key for key in self._rows if key in keys)}):
            covered = max((then for other, then in self._listings if key in other), default=None)
            if is_stale(asked, covered):
                continue
            ended = self._ended.get(key, {})
            known = self._rows.get(key, ())
            after = absorb(known, listed.get(key, []), asked=asked, covered=covered, completions=ended)
            for row in after.rows:
                ended.pop(row.entry.version_id, None)
            if after.rows != known:
                self._rows[key] = after.rows
                self._pending[key] = self._changes
            added, gone, revived = added + after.added, gone + after.gone, revived + after.revived
        self._listings.append((keys, asked))
        return Ingested(added, gone, revived)

    def complete_upload(self, key: str, version_id: str, at: StoreMs) -> None:
        known = self._rows.get(key, ())
        if any(row.entry.version_id == version_id for row in known):
            self._changes += 1
            after = placed_again(known, {version_id: at})
            if after != known:
                self._rows[key] = after
                self._pending[key] = self._changes
        else:
            ended = self._ended.setdefault(key, {})
            ended[version_id] = min(at, ended.get(version_id, at))

    def load(self, key: str, rows: Iterable[Row]) -> None:
        self._rows[key] = tuple(rows)
        self._pending.pop(key, None)

    def load_many(self, histories: Iterable[tuple[str, tuple[Row, ...]]]) -> int:
        total = 0
        for key, rows in histories:
            self.load(key, rows)
            total += len(rows)
        return total

    def history(self, key: str) -> tuple[Row, ...]:
        return tuple(shown(row, self._habit) for row in self._rows.get(key, ()))

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        return ((key, self.history(key)) for key in keys)

    def entries_there(self, keys: KeyRange) -> Iterator[tuple[str, int]]:
        for key in sorted(key for key in self._rows if key in keys):
            ids = {(row.entry.version_id, row.entry.modified) for row in self._rows[key] if not row.is_gone}
            if ids:
                yield key, len(ids)

    def as_of(self, moment: StoreMs, *, prefix: str = "", after: str = "") -> Iterator[Row]:
        for key in self._keys(prefix):
            row = self._current(key, moment)
            if row is not None and key > after:
                yield row

    def totals(self, moment: StoreMs, *, prefix: str = "") -> Totals:
        rows = list(self.as_of(moment, prefix=prefix))
        return Totals(len(rows), sum(row.entry.size for row in rows), sum(row.is_gone for row in rows))

    def diff(self, earlier: StoreMs, later: StoreMs, *, prefix: str = "") -> Iterator[Change]:
        for key in self._keys(prefix):
            before, after = self._current(key, earlier), self._current(key, later)
            if (before and before.entry) != (after and after.entry):
                yield Change(key, before, after)

    def uncertain(self, moment: StoreMs, *, prefix: str = "", band_ms: int = 1000) -> Iterator[Uncertain]:
        for key in self._keys(prefix):
            doubts = {doubt for row in self.history(key) for doubt in _doubts_of(row, moment, band_ms)}
            if doubts:
                yield Uncertain(key, tuple(doubt for doubt in Doubt if doubt in doubts))

    def observe(self, seen: Observation) -> None:
        if seen not in self._observations:
            self._observations.append(seen)

    def observations(self) -> tuple[Observation, ...]:
        return tuple(sorted(self._observations, key=lambda seen: seen.at))

    def unshipped(self, *, keys_max: int) -> tuple[str, ...]:
        return tuple(sorted(self._pending))[:keys_max]

    def mark_shipped(self, keys: Iterable[str], *, changes_before: int) -> None:
        for key in keys:
            if self._pending.get(key, changes_before + 1) <= changes_before:
                del self._pending[key]

    def unship_all(self) -> None:
        self._changes += 1
        self._pending = dict.fromkeys((key for key, rows in self._rows.items() if rows), self._changes)

    @property
    def changes(self) -> int:
        return self._changes

    def close(self) -> None:
        pass

    @property
    def _habit(self) -> MultipartTime:
        told = [seen.value for seen in self.observations() if seen.kind == "multipart_time"]
        return MultipartTime(told[-1]) if told else MultipartTime.UNKNOWN

    def _keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self._rows if key.startswith(prefix))

    def _current(self, key: str, moment: StoreMs) -> Row | None:
        for row in self.history(key):
            if row.was_current(moment):
                return row if row.entry.kind is EntryKind.VERSION else None
        return None


def _doubts_of(row: Row, moment: StoreMs, band_ms: int) -> Iterator[Doubt]:
    placed, traits = row.placed, row.placed.traits
    is_first = Trait.REINSTATED not in traits
    if is_first and moment - band_ms < placed.begin <= moment:
        yield Doubt.BOUNDARY
    if Trait.UNKNOWN_BEGIN in traits and row.was_current(moment) and moment < row.first_seen:
        yield Doubt.MULTIPART
    if Trait.ORDER_CONFLICT in traits and placed.begin <= moment:
        yield Doubt.ORDER
    if Trait.NULL in traits and is_first and moment < placed.begin:
        yield Doubt.NULL
    if row.gone_after is not None and row.was_current(moment) and row.gone_after < moment:
        yield Doubt.REMOVED
