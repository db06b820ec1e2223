"""A listing put aside until it is known to be whole, and brought into the order of keys.

Rules:
- Nothing is written to an index before the listing ended well: a fault of the iterator leaves as it is.
- In memory there is one piece of it at a time (of an unsorted one, a bite of each piece); the rest lies in a
  file without a name.
- What cannot be put aside (a full disk) is IndexUnavailable.
- A server may list keys in another order than that of their bytes. The entries of one key keep theirs.
"""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, cast

from walarchiver.errors import IndexUnavailable
from walarchiver.evidence.indexrow import Facts

Line = tuple[bytes, Facts]
_PIECE, _BITE = 100_000, 1_000


class Spool:
    """Lines of one listing. Close it."""

    def __init__(self, folder: Path, lines: Iterable[Line]) -> None:
        """Take all of them over. Raises what the iterator raises."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._aside: list[tuple[int, int]] = []
        """Where each piece begins and ends in the file."""
        self._piece: list[Line] = []
        self._is_sorted = True
        self.count = 0
        try:
            self._take(lines)
        except BaseException:
            self.close()
            raise

    def _take(self, lines: Iterable[Line]) -> None:
        last = b""
        coming = iter(lines)
        while True:
            if len(self._piece) == _PIECE:
                self._put_aside()
            self._piece += islice(coming, _PIECE - len(self._piece))
            for key, _ in self._piece:
                if key < last:
                    self._is_sorted = False
                last = key
            self.count += len(self._piece)
            if len(self._piece) < _PIECE:
                break
        if not self._is_sorted:
            self._piece.sort(key=itemgetter(0))

    def _put_aside(self) -> None:
        try:
            self._write_aside()
        except OSError as fault:
            raise IndexUnavailable(f"a listing cannot be put aside in {self._folder}: {fault}") from fault

    def _write_aside(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        start = self._file.tell()
        # Sorted even when all was in order so far: later pieces may not be.
        self._piece.sort(key=itemgetter(0))
        for at in range(0, len(self._piece), _BITE):
            marshal.dump(self._piece[at : at + _BITE], self._file)
        self._aside.append((start, self._file.tell()))
        self._piece = []

    def groups(self) -> Iterator[tuple[bytes, list[Facts]]]:
        """Each key with its entries in the server's order, in the order of keys."""
        pieces = [self._read(*span) for span in self._aside] + [iter(self._piece)]
        if self._is_sorted:
            ordered = (line for piece in pieces for line in piece)
        else:
            ordered = merge(*pieces, key=itemgetter(0))
        for key, lines in groupby(ordered, key=itemgetter(0)):
            yield key, [facts for _, facts in lines]

    def _read(self, start: int, end: int) -> Iterator[Line]:
        assert self._file is not None
        while start < end:
            self._file.seek(start)
            bite = cast("list[Line]", marshal.load(self._file))  # noqa: S302 - our own file
            start = self._file.tell()
            yield from bite

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
