"""Writes the roll-ups of whole blocks, from what the store holds. Blocking; for a thread in the background.

Rules (docs/format.md, "Roll-ups"):
- A block that is whole, ends with a valid entry and has no roll-up gets one. Names are written once: what
  stands there already is left alone, and reported when it is something else.
- Every entry in it is the one that the catalog verified, by hash; what was made is unpacked and compared
  before it is sent.
- A block beyond the bounds of the format has no roll-up; it is tried once per process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from walarchiver.entrystore import EntryStore
from walarchiver.errors import (
    KeyTaken,
    LedgerBroken,
    MalformedObject,
    ObjectMissing,
    ShuttingDown,
    Untrusted,
    WalarchiverError,
)
from walarchiver.format.rollup import ROLLUP_BYTES_MAX, encode_rollup, split_rollup
from walarchiver.ledger import Ledger
from walarchiver.log import get_log
from walarchiver.rollupstore import RollupStore

log = get_log("ledger")


class RollupWriter:
    """Keeps one ledger rolled up."""

    def __init__(self, ledger: Ledger, *, stopping: Callable[[], bool] = lambda: False) -> None:
        """`stopping` is asked between entries: a block takes thousands of reads."""
        self._ledger = ledger
        self._stopping = stopping
        self._entries = EntryStore(ledger.store, ledger.system)
        self._shelf = RollupStore(ledger.store, ledger.repo, ledger.system, ledger.block)
        self._left: set[int] = set()
        """Blocks that need no more looking at: rolled up, or beyond the bounds."""

    def due(self) -> bool:
        """Whether a block may lack its roll-up, told from the catalog alone."""
        return bool(self._whole_blocks())

    def write_missing(self) -> int:
        """Write every roll-up that is missing; how many were written.

        One block that fails keeps none behind it. Raises the first failure in the end.
        """
        if not self.due():
            return 0
        there = self._shelf.listed()
        written = 0
        problem: WalarchiverError | None = None
        for first in self._whole_blocks():
            if first in there:
                self._left.add(first)
                continue
            try:
                written += self._write(first)
            except MalformedObject as error:
                log.info("block not rolled up", system=self._ledger.system, first=first, reason=error.message)
            except ShuttingDown:
                raise
            except WalarchiverError as error:
                problem = problem or error
                continue
            self._left.add(first)
        if problem is not None:
            raise problem
        return written

    def _whole_blocks(self) -> list[int]:
        """First numbers of blocks that end with a valid entry and were not dealt with."""
        block = self._ledger.block
        ends = self._ledger.state().next_seq // block * block
        found = [first for first in range(0, ends, block) if first not in self._left]
        return [first for first in found if self._ledger.catalog.entry_writer(first + block - 1) is not None]

    def _write(self, first: int) -> int:
        ledger = self._ledger
        stored = encode_rollup(
            self._gathered(first), repo=ledger.repo, system=ledger.system, first=first, block=ledger.block
        )
        made = split_rollup(stored, repo=ledger.repo, system=ledger.system, first=first, block=ledger.block)
        if not self._is_our_block(first, made):
            raise LedgerBroken(f"roll-up from entry {first} would not hold the entries that were verified")
        try:
            ledger.store.put_new(self._shelf.key(first), stored)
        except KeyTaken:
            self._check_theirs(first)
            return 0
        log.info("roll-up written", system=ledger.system, first=first, bytes=len(stored))
        return 1

    def _gathered(self, first: int) -> list[bytes]:
        """The stored bytes of a block, as they were verified. Raises MalformedObject beyond the bounds."""
        found: list[bytes] = []
        size = 0
        for seq, versions in self._entries.listed(first):
            if len(found) == self._ledger.block:
                break
            if self._stopping():
                raise ShuttingDown("the roll-up is left for the next start")
            expected = self._ledger.catalog.entry_sha256(seq)
            contents = [one for one in self._entries.distinct(versions) if one.sha256 == expected]
            if seq != first + len(found) or not contents:
                break
            body = contents[0].body
            size += ROLLUP_BYTES_MAX if body is None else len(body)
            if body is None or size > ROLLUP_BYTES_MAX:
                raise MalformedObject(f"block from entry {first} is too large to be rolled up")
            found.append(body)
        if len(found) != self._ledger.block:
            missing = first + len(found)
            raise ObjectMissing(f"entry {missing} of system {self._ledger.system} is not there as verified")
        return found

    def _is_our_block(self, first: int, entries: Iterable[bytes]) -> bool:
        hashes = [hashlib.sha256(entry).hexdigest() for entry in entries]
        return hashes == [self._ledger.catalog.entry_sha256(first + index) for index in range(len(hashes))]

    def _check_theirs(self, first: int) -> None:
        """Another was first: the same block, or something that is reported."""
        problem: Untrusted | None = None
        for version in self._shelf.at(first):
            try:
                if self._is_our_block(first, self._shelf.unpacked(first, version)):
                    return
            except Untrusted as error:
                problem = error
        raise problem or LedgerBroken(f"{self._shelf.key(first)} is the roll-up of other entries")
