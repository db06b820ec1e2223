"""What was measured, as values, and the arithmetic over them.

Rules:
- MB and GB are 10**6 and 10**9 plain bytes. Everything that is compared is per plain byte, as not every
  contestant is given the same number of segments.
- A ratio is taken within one round, between neighbours in time; of rounds the median [min-max] is told.
- A wall clock of a machine with neighbours is worth little alone; ratios and CPU seconds travel better.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Measure:
    """One contestant in one round; bytes and seconds."""

    label: str
    round: int
    plain: int
    wall_s: float
    cpu_s: float
    rss: int = 0
    pss: int = 0
    stored: int = 0
    calls_s: tuple[float, ...] = ()
    store_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    """Of PostgreSQL, for base backups."""

    @property
    def wall_per_byte(self) -> float:
        return self.wall_s / self.plain

    @property
    def cpu_per_gb(self) -> float:
        return self.cpu_s / self.plain * 1e9

    @property
    def mb_per_s(self) -> float:
        return self.plain / 1e6 / self.wall_s


@dataclass(frozen=True, slots=True)
class Pair:
    """`theirs` / `ours`: above 1 means that ours is better."""

    theirs: str
    ours: str
    goal_wall: str = ""
    goal_cpu: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`2.55 [2.38-2.81]`, or the value alone where all are the same."""
        middle, low, high = (f"{value * scale:.{digits}f}" for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} [{low}-{high}]"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that are no measures of the common kind, ready to print."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(slots=True)
class Section:
    """One part of the report."""

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    has_calls: bool = True
    took_s: float = 0.0

    def labels(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(one.label for one in self.measures))

    def of(self, label: str) -> list[Measure]:
        return [one for one in self.measures if one.label == label]


def ratios(section: Section, pair: Pair, value: Callable[[Measure], float]) -> list[float]:
    """Theirs over ours in each round that has both."""
    theirs = {one.round: one for one in section.of(pair.theirs)}
    return [
        value(theirs[ours.round]) / value(ours)
        for ours in section.of(pair.ours)
        if ours.round in theirs and value(ours) > 0
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    known = sorted(values)
    rank = -(-len(known) * round(share * 1000) // 1000)
    return known[min(len(known), max(1, rank)) - 1]
