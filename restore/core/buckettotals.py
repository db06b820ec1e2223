"""What a bucket restore comes to: keys, bytes, requests, and an estimate of what the store charges.

Rules: sums are kept while a plan streams by, so they need no room; prices are the list prices of one region
(Amazon S3, us-east-1, Standard) and are called an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from restore.core.bucketactions import Action, Kind
from restore.core.wording import counted

PART_BYTES = 512 * 1024**2
"""A copy in parts is estimated with parts of this size."""
WRITES_PER_DOLLAR = 200_000
READS_PER_DOLLAR = 2_500_000
INSTANT = "instant"
THAW = "thaw"
LOST = "lost"


@dataclass(frozen=True, slots=True)
class Sum:
    """Keys and bytes of one kind."""

    keys: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Tally:
    """Adds up actions."""

    kinds: dict[Kind, Sum] = field(default_factory=dict)
    classes: dict[str, Sum] = field(default_factory=dict)
    """By storage class, of what is copied or thawed."""
    flagged: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    """COPY, PUT, POST and LIST requests."""
    reads: int = 0
    """GET and HEAD requests."""
    unchanged: int = 0
    """Keys that hold what they should without having been listed one by one."""

    def add(self, action: Action) -> None:
        size = action.source.size if action.source is not None else 0
        self.kinds[action.kind] = _more(self.kinds.get(action.kind), size)
        if action.source is not None and action.kind in (Kind.COPY, Kind.COPY_IN_PARTS, Kind.THAW):
            tier = action.source.storage_class or "STANDARD"
            self.classes[tier] = _more(self.classes.get(tier), size)
        for flag in action.flags:
            self.flagged[flag.value] = self.flagged.get(flag.value, 0) + 1
        writes, reads = requests_of(action)
        self.writes += writes
        self.reads += reads

    def keys(self, *kinds: Kind) -> int:
        return sum(self.kinds[kind].keys for kind in kinds if kind in self.kinds)

    def bytes(self, *kinds: Kind) -> int:
        return sum(self.kinds[kind].bytes for kind in kinds if kind in self.kinds)


def _more(total: Sum | None, size: int) -> Sum:
    return Sum(1, size) if total is None else Sum(total.keys + 1, total.bytes + size)


def requests_of(action: Action) -> tuple[int, int]:
    """About how many (writing or listing, reading) requests carrying out and verifying an action takes."""
    match action.kind:
        case Kind.COPY:
            return 2, 2
        case Kind.COPY_IN_PARTS:
            assert action.source is not None
            return 3 + -(-action.source.size // PART_BYTES), 3
        case Kind.MARK_DELETED:
            return 1, 0  # DELETE is free; one LIST verifies
        case Kind.REMOVE_MARKERS:
            return 1 + len(action.markers), 0
        case _:
            return 0, 0


def cost_lines(tally: Tally) -> list[str]:
    """The estimate, for people."""
    dollars = tally.writes / WRITES_PER_DOLLAR + tally.reads / READS_PER_DOLLAR
    lines = [
        f"about {tally.writes:,} writing or listing requests and {tally.reads:,} reading ones: "
        f"${dollars:,.2f} at Amazon's list prices (us-east-1), without transfer between regions"
    ]
    thawed = tally.kinds.get(Kind.THAW)
    if thawed is not None:
        lines.append(
            f"in an archive tier: {counted(thawed.keys, 'version')} ({thawed.bytes:,} bytes); retrieval is "
            "charged by the GB, and takes 3 to 5 hours from GLACIER, up to 12 from DEEP_ARCHIVE"
        )
    return lines


def tally_members(tally: Tally) -> Mapping[str, object]:
    """The sums for machines."""
    return {
        "unchanged": tally.unchanged,
        "actions": {
            kind.value: {"keys": total.keys, "bytes": total.bytes}
            for kind, total in sorted(tally.kinds.items())
        },
        "storage_classes": {
            tier: {"keys": total.keys, "bytes": total.bytes} for tier, total in sorted(tally.classes.items())
        },
        "flags": dict(sorted(tally.flagged.items())),
        "requests": {"writes": tally.writes, "reads": tally.reads},
    }
