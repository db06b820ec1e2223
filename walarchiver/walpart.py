"""Part: a piece of a WAL file on its way, from being read to being stored, and the memory that it lies in.

Rules:
- The memory is given back only where no thread uses it any more; otherwise it is let go.
- A sealed body is let go by the thread that sent it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from walarchiver.buffers import Buffers
from walarchiver.depositor import Deposit, Depositor
from walarchiver.format.records import StoredObject
from walarchiver.format.scans import ScanRecord
from walarchiver.offered import Offered
from walarchiver.scanner import Scanned, Scans


@dataclass(slots=True)
class Part:
    """A piece of a file on its way, and the memory that it lies in.

    The memory is given back only where no thread uses it any more; otherwise it is let go."""

    offered: Offered
    raw: int
    scanner: Scans | None
    """Walks the segment of which this is the last piece."""
    sealed: Deposit | None = field(default=None, repr=False)
    """Until it is stored. The thread that sends it lets it go: the loop must not wait for the heap."""
    _buffer: bytearray | None = field(default=None, repr=False)

    @property
    def holds(self) -> bool:
        return self._buffer is not None

    def read(self, buffers: Buffers) -> memoryview:
        self._buffer = buffers.take(self.raw)
        view = memoryview(self._buffer)
        self.offered.read(view)
        return view

    def scanned(self, buffers: Buffers) -> tuple[list[ScanRecord | None], Scanned | None]:
        """Records of the segment before and of this one, or what has to wait for the file behind it.

        The memory is given back, unless it is needed again."""
        records: list[ScanRecord | None] = []
        if self.scanner is not None:
            records.append(self.scanner.late(self.offered))
            scan = self.scanner.scan(self.offered)
            if scan is not None and self.scanner.waits(scan):
                return records, scan
            if scan is not None:
                records.append(self.scanner.record(scan, self.offered))
        self.give_back(buffers)
        return records, None

    def put(self, depositor: Depositor) -> StoredObject:
        sealed, self.sealed = self.sealed, None
        assert sealed is not None
        return depositor.put(sealed)

    def give_back(self, buffers: Buffers) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffers.give_back(buffer)
