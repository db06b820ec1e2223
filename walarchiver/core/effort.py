"""How hard WAL is compressed: as well as suits it, unless the archive is really falling behind.

Rules:
- A large backlog alone changes nothing: it is worked off, and the archive stays small.
- Faster and larger only while the backlog is large, grew over a whole window, and compressing is what the
  threads were busy with. A store that does not answer, or a slow line, is no reason: larger bodies would
  make it worse.
- No change within a window of the last one; back to normal only when little is left: it does not flap.
- Nothing is ever left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WINDOW_S = 60.0
LARGE_FILES = 64
LITTLE_FILES = 16
GROWN_FILES = 8
BUSY_SHARE = 0.4
"""Of the workers' time. Reading, digests and scans take their part, too, so it never comes near 1."""


class Effort(StrEnum):
    """What compressing is to be."""

    NORMAL = "normal"
    HURRIED = "hurried"


@dataclass(frozen=True, slots=True)
class BacklogSample:
    """What was seen at one moment, on a clock that never runs backwards."""

    at_s: float
    waiting: int
    """Files that wait to be archived."""
    sealing_s: float
    """Seconds that threads have spent on compressing so far, together."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The effort in force, and what the next decision is made from."""

    effort: Effort = Effort.NORMAL
    changed_s: float = float("-inf")
    samples: tuple[BacklogSample, ...] = ()
    """Of the last window, and the newest one before it; oldest first."""


def next_pace(pace: Pace, sample: BacklogSample, *, workers: int) -> Pace:
    """The pace from this sample on."""
    samples = _within(pace.samples, sample)
    oldest = samples[0]
    seen_s = sample.at_s - oldest.at_s
    if seen_s < WINDOW_S or sample.at_s - pace.changed_s < WINDOW_S:
        return Pace(pace.effort, pace.changed_s, samples)
    effort = pace.effort
    if effort is Effort.NORMAL and _falls_behind(oldest, sample, workers * seen_s):
        effort = Effort.HURRIED
    elif effort is Effort.HURRIED and sample.waiting <= LITTLE_FILES:
        effort = Effort.NORMAL
    return Pace(effort, pace.changed_s if effort is pace.effort else sample.at_s, samples)


def _falls_behind(oldest: BacklogSample, newest: BacklogSample, available_s: float) -> bool:
    return (
        newest.waiting >= LARGE_FILES
        and newest.waiting - oldest.waiting >= GROWN_FILES
        and newest.sealing_s - oldest.sealing_s >= BUSY_SHARE * available_s
    )


def _within(samples: tuple[BacklogSample, ...], newest: BacklogSample) -> tuple[BacklogSample, ...]:
    """The samples of the window that ends with the newest one, and one from before it."""
    kept = (*(one for one in samples if one.at_s < newest.at_s), newest)
    begins_s = newest.at_s - WINDOW_S
    while len(kept) > 1 and kept[1].at_s <= begins_s:
        kept = kept[1:]
    return kept
