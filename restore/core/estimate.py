"""How long a restore will take, from what earlier ones on this host took; an estimate, and said to be one.

Rules:
- Three parts, one after the other: the base backup's files (downloaded, opened, written, verified), the WAL
  files (fetched as PostgreSQL asks for them), and their replay. PostgreSQL waits for each file, so the last
  two add up.
- A part's rate is the newest that was measured on this host; without one a default counts, and the answer
  says which of the two it is, and over how many bytes it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from restore.core.model import Decision
from restore.core.planfile import Json
from walarchiver.core.moment import format_rfc3339


class Part(StrEnum):
    """What a restore spends its time on."""

    FILES = "files"
    WAL_FETCH = "wal_fetch"
    REPLAY = "replay"


DEFAULT_BYTES_PER_S = {Part.FILES: 100_000_000, Part.WAL_FETCH: 50_000_000, Part.REPLAY: 50_000_000}
"""Plain bytes a second where nothing was measured: modest for a server with disks of its own."""

_CALLED = {Part.FILES: "files", Part.WAL_FETCH: "WAL fetch", Part.REPLAY: "replay"}


@dataclass(frozen=True, slots=True)
class Measured:
    """So many plain bytes took so long."""

    bytes: int
    us: int
    at: int
    """When it ended, microseconds since 1970 on this host's clock."""

    @property
    def bytes_per_s(self) -> float:
        return self.bytes * 1e6 / self.us


@dataclass(frozen=True, slots=True)
class PartEstimate:
    """One part: its plain bytes, and what its rate rests on (None: the default)."""

    part: Part
    bytes: int
    measured: Measured | None

    @property
    def bytes_per_s(self) -> float:
        return DEFAULT_BYTES_PER_S[self.part] if self.measured is None else self.measured.bytes_per_s

    @property
    def seconds(self) -> float:
        return self.bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """All parts, in their order."""

    parts: tuple[PartEstimate, ...] = field(default=())

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def estimate(decision: Decision, measured: Mapping[Part, Measured]) -> Estimate | None:
    """How long carrying out a decision will take; None for a refusal."""
    if decision.backup is None or decision.wal is None:
        return None
    sizes = {
        Part.FILES: decision.backup.raw_in_all,
        Part.WAL_FETCH: decision.wal.bytes,
        Part.REPLAY: decision.wal.bytes,
    }
    return Estimate(tuple(PartEstimate(part, size, measured.get(part)) for part, size in sizes.items()))


def estimate_document(found: Estimate | None) -> Json:
    """The estimate as JSON; `measured` null: the rate is a default."""
    if found is None:
        return None
    return {
        "seconds": round(found.seconds),
        "parts": {
            one.part.value: {
                "seconds": round(one.seconds),
                "bytes": one.bytes,
                "bytes_per_second": round(one.bytes_per_s),
                "measured": None
                if one.measured is None
                else {"at": format_rfc3339(one.measured.at), "bytes": one.measured.bytes},
            }
            for one in found.parts
        },
    }


def estimate_text(found: Estimate) -> str:
    """The estimate in one sentence, with what it rests on."""
    parts = ", ".join(f"{_CALLED[one.part]} {_length(one.seconds)}" for one in found.parts)
    known = [one for one in found.parts if one.measured is not None]
    guessed = [_CALLED[one.part] for one in found.parts if one.measured is None]
    rests = [f"{_CALLED[one.part]} at {_rate(one)}" for one in known]
    if guessed:
        rests.append(f"{' and '.join(guessed)} by a default, not measured on this host yet")
    return f"about {_length(max(1.0, found.seconds))}, an estimate: {parts} ({'; '.join(rests)})"


def _rate(one: PartEstimate) -> str:
    assert one.measured is not None, "a default says so"
    return (
        f"{one.bytes_per_s / 1e6:,.1f} MB/s, measured here over {one.measured.bytes / 1e6:,.1f} MB on "
        f"{format_rfc3339(one.measured.at)[:10]}"
    )


def _length(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return "under 1 s" if seconds < 1 else f"{round(seconds)} s"
