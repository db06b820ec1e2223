"""How far the object store's clock is from the database server's, from tie points.

Rules:
- A tie point brackets: between two readings of the server's clock the store answered a write, with a Date of
  whole seconds that was rounded down (RFC 9110, 6.6.1). So store minus server lies in
  [date - after, date + 1 s - before].
- Brackets of ties near one another are intersected: clocks that are kept by NTP drift far less in an hour
  than a bracket is wide. Where they contradict, a clock was stepped, and the hull of all counts instead.
- The difference is a label for people and a width for the guard interval; it never decides an order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from walarchiver.core.moment import CommitTime, StoreTime

SECOND_US = 1_000_000
ALARM_US = 2 * SECOND_US
"""A difference that certainly exceeds this is an alarm."""


@dataclass(frozen=True, slots=True)
class Tie:
    """One tie point; times in microseconds."""

    before: CommitTime
    after: CommitTime
    date: StoreTime

    @property
    def skew(self) -> Skew:
        return Skew(self.date - self.after, self.date + SECOND_US - self.before)


@dataclass(frozen=True, slots=True)
class Skew:
    """The store's clock minus the server's lies in [low, high], microseconds."""

    low: int
    high: int
    contradictory: bool = False
    """The ties contradict each other: a clock was stepped between them."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def certain(self) -> int:
        """The least difference that there must be, with its sign; 0 when the clocks may agree."""
        return self.low if self.low > 0 else min(self.high, 0)

    @property
    def alarming(self) -> bool:
        """The clocks certainly differ by more than is good."""
        return abs(self.certain) > ALARM_US or self.contradictory


def skew_of(ties: Iterable[Tie]) -> Skew | None:
    """What ties that lie near one another say together; None without any."""
    brackets = [tie.skew for tie in ties]
    if not brackets:
        return None
    low, high = max(each.low for each in brackets), min(each.high for each in brackets)
    if low <= high:
        return Skew(low, high)
    return Skew(min(each.low for each in brackets), max(each.high for each in brackets), contradictory=True)


def near(ties: Iterable[Tie], time: CommitTime, *, within_us: int) -> tuple[Tie, ...]:
    """The ties not further from `time` than that."""
    return tuple(tie for tie in ties if abs(tie.before - time) <= within_us)


def store_time_of(time: CommitTime, skew: Skew | None) -> StoreTime:
    """The instant on the store's clock that is taken for `time` on the server's: the same number unless the
    clocks certainly differ."""
    return StoreTime(time + (0 if skew is None else skew.certain))
