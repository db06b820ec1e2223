"""The catalog's horizon samples as the planner asks for them: some at a time, or all as a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from restore.core.model import Horizon
from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.format.records import HorizonRecord


class Samples(Sequence[Horizon]):
    """Oldest first as a sequence, which reads them all when first looked into; else newest first."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._all: tuple[Horizon, ...] | None = None

    def _read(self) -> tuple[Horizon, ...]:
        if self._all is None:
            self._all = tuple(_horizons(self._catalog.horizons()))
        return self._all

    def __len__(self) -> int:
        return len(self._read())

    @overload
    def __getitem__(self, index: int) -> Horizon: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Horizon]: ...
    def __getitem__(self, index: int | slice) -> Horizon | Sequence[Horizon]:
        return self._read()[index]

    def by_position(self, timeline: int, low: Lsn, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions low..high, both included."""
        return _horizons(self._catalog.samples_by_position(timeline, low, high))

    def by_time(self, timeline: int, low: CommitTime, high: CommitTime) -> Iterable[Horizon]:
        """Those of a timeline with times low..high, both included."""
        return _horizons(self._catalog.samples_by_time(timeline, low, high))

    def up_to(self, timeline: int, high: Lsn) -> Iterable[Horizon]:
        """Those of a timeline with positions up to `high`."""
        return _horizons(self._catalog.samples_up_to(timeline, high))


def _horizons(records: Iterable[HorizonRecord]) -> Iterator[Horizon]:
    return (Horizon(one.time, one.lsn, one.timeline) for one in records)
