"""The fast way through a segment's plain stretch for `find`, where the compiled part is there.

Rules:
- The compiled part (_walskim.c) counts the rows of watched files where a record has the usual form, notes
  commits and aborts that tell nothing but their time, and lists every other record that may matter; those
  `touches.Gatherer` takes in, which is the one description of what a record means.
- It stops before the first thing that is not plain: `stretch.py` walks on from its last record.
- A listed record that turns out to be broken is left to the walk, with everything behind it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from walarchiver.core.lsn import Lsn
from walarchiver.core.skim import COMPILED, SLICE_BYTES, Reading
from walarchiver.core.touch import BareEnds, RowGroups, Touches, Watch
from walarchiver.core.touches import (
    ABORTS,
    ALWAYS,
    COMMITS,
    DELETES,
    INSERTS,
    MULTI_INSERTS,
    UPDATES,
    Gatherer,
)
from walarchiver.core.walpage import SegmentIdentity
from walarchiver.core.walreader import Buffer
from walarchiver.errors import CorruptSegment

if COMPILED:
    from walarchiver.core import _walskim

_HOP, _KEEP, _COMMIT, _ABORT, _INSERT, _UPDATE, _DELETE, _MULTI_INSERT = range(8)
_COMPRESSED_14, _COMPRESSED = 0x02, 0x1C
_FROM_CARRIED = 0


def _actions() -> bytes:
    table = bytearray(1 << 16)
    for kinds, action in (
        (ALWAYS, _KEEP),
        (COMMITS, _COMMIT),
        (ABORTS, _ABORT),
        (INSERTS, _INSERT),
        (UPDATES, _UPDATE),
        (DELETES, _DELETE),
        (MULTI_INSERTS, _MULTI_INSERT),
    ):
        for kind in kinds:
            table[kind] = action
    return bytes(table)


_ACTIONS = _actions()
"""What the compiled part does with each kind of record."""


@dataclass(frozen=True, slots=True)
class Sifted:
    """What a segment's records up to `last` tell, in WAL order; `last` is to be walked once more."""

    found: tuple[Touches, ...]
    last: Lsn


def sift(
    pages: Buffer, identity: SegmentIdentity, base: Lsn, watch: Watch, start: Lsn | None = None
) -> Sifted | None:
    """What could be passed at once of a whole segment that begins at `base`; None for nothing.

    `start`: where a record starts; None: with the first that does.
    """
    if not COMPILED:
        return None
    found: list[Touches] = []
    at = _FROM_CARRIED if start is None or start <= base else start - base
    last, timeline, high = -1, 0, 0
    while high < len(pages):
        high = min(high + SLICE_BYTES, len(pages))
        state = (at, last, timeline)
        passed = _pass(pages, identity, base, watch, base + high, state)
        if passed is None:
            break
        try:
            found.append(_touches(pages, identity, base, watch, passed))
        except _Broken as broken:
            passed = _pass(pages, identity, base, watch, broken.lsn, state)
            if passed is not None:
                found.append(_touches(pages, identity, base, watch, passed))
                last = passed[2]
            break
        at, timeline, last = passed[:3]
        if at < high:
            break
    return Sifted(tuple(found), Lsn(base + last)) if found else None


class _Broken(Exception):
    """A listed record is not what it claims to be: control flow inside this module, no error."""

    def __init__(self, lsn: Lsn) -> None:
        super().__init__()
        self.lsn = lsn


def _pass(
    pages: Buffer, identity: SegmentIdentity, base: Lsn, watch: Watch, stop: int, state: tuple[int, int, int]
) -> tuple[Any, ...] | None:
    compressed = _COMPRESSED_14 if identity.major < 15 else _COMPRESSED
    names = b"".join(watch.named)
    return _walskim.sift(
        pages, base, stop, identity.magic, _ACTIONS, names, watch.counted(), compressed, *state
    )


def _touches(
    pages: Buffer, identity: SegmentIdentity, base: Lsn, watch: Watch, passed: tuple[Any, ...]
) -> Touches:
    """Take in the listed records, and before each what its id did until then. Raises _Broken."""
    reading = Reading(pages, base, identity)
    records = [reading.record(offset) for offset in array("I", passed[3])]
    files = tuple(watch.named.values())
    groups = RowGroups(files, *(array(code, raw) for code, raw in zip("IIqqqQQI", passed[4], strict=True)))
    lsns, xids, times, commits = passed[5]
    gatherer = Gatherer(watch)
    gatherer.found.bare = BareEnds(array("Q", lsns), array("I", xids), array("q", times), bytearray(commits))
    listed = {record.xid for record in records}
    gatherer.found.rows = groups.without(listed)
    mixed = [index for index, xid in enumerate(groups.xids) if xid in listed] if listed else []
    mixed.sort(key=lambda index: groups.lasts[index])
    turn = 0
    for record in records:
        while turn < len(mixed) and groups.lasts[mixed[turn]] < record.start:
            _add(gatherer, groups, mixed[turn])
            turn += 1
        try:
            gatherer.add(record)
        except CorruptSegment:
            raise _Broken(record.start) from None
    for index in mixed[turn:]:
        _add(gatherer, groups, index)
    return gatherer.found


def _add(gatherer: Gatherer, groups: RowGroups, index: int) -> None:
    first, last = groups.firsts[index], groups.lasts[index]
    gatherer.add_rows(groups.xids[index], groups.file(index), groups.rows(index), first, last)
