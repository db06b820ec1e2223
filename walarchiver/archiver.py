"""Archiver: makes one WAL file durable, and answers only then.

Rules:
- Acknowledged means: its objects and its ledger entry are durable. Nothing is remembered as done
  from anywhere but the verified ledger.
- The same bytes again succeed without writing; other bytes under a recorded name are refused and
  alarmed; nothing is ever overwritten.
- Every file is checked against the cluster before a byte is stored (`offered.py`).
- A segment's scan goes into the ledger with the segment; one that cannot be made holds nothing up.
- Two calls for one name share one piece of work only if they name the same, unchanged file;
  PostgreSQL does repeat a call after a crash while the first one still runs.
- A caller that goes away stops nothing: the work ends, and whoever asks again finds its result.
- Memory: a bounded number of parts (at most 64 MiB plain each), whatever the segment size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from walarchiver.budget import ByteBudget
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.conflict import refuse_other_content
from walarchiver.core.segment import SegmentFile, WalFile, parse_wal_file
from walarchiver.depositor import Deposit, Depositor
from walarchiver.errors import EpochOutdated
from walarchiver.format.records import Record, StoredObject
from walarchiver.format.scans import ScanRecord
from walarchiver.ledger import Proposal
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts, Offered, Unchanged, open_offered, unchanged
from walarchiver.scanner import Scans

PART_BYTES = 64 << 20
"""Plain bytes per object; docs/format.md."""
SEALINGS_MAX = 4
"""A file is sealed anew when the keyring changed meanwhile, this often at most."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What became of a file: `fresh` is False when it was recorded already."""

    name: str
    bytes: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Deposited:
    """A file that is stored and not recorded yet."""

    record: FileRecord
    epochs: frozenset[str]
    scans: tuple[ScanRecord, ...]
    """Of the file itself and, if that one had to wait for it, of the segment before."""


class Archiver:
    """Archives the WAL files of one cluster into one repository."""

    def __init__(
        self,
        *,
        cluster: ClusterFacts,
        depositor: Depositor,
        queue: LedgerQueue,
        cpu: Executor,
        io: Executor,
        budget: ByteBudget,
        scanner: Scans | None = None,
        companions: Callable[[WalFile], tuple[Record, ...]] = lambda _file: (),
        accompanied: Callable[[Sequence[Record]], None] = lambda _records: None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> None:
        """`companions` gives records that ride along with a file's own (horizon samples), and may be
        asked again after a lost race; `accompanied` hears which of them are durable. `observe` is
        told each step, for tests that stop there."""
        self.cluster = cluster
        self._depositor = depositor
        self._queue = queue
        self._cpu = cpu
        self._io = io
        self._companions = companions
        self._accompanied = accompanied
        self._observe = observe
        self._budget = budget
        self._scanner = scanner
        self._running: dict[tuple[str, Path, Unchanged], asyncio.Task[Archived]] = {}

    @property
    def catalog(self) -> Catalog:
        return self._queue.ledger.catalog

    async def archive(self, name: str, path: Path) -> Archived:
        """Return only when the file would outlive this host.

        Raises NotAWalFile, FileMissing, CorruptSegment, WrongCluster, SegmentConflict: refused, nothing
        recorded; SegmentChanged, StoreUnavailable, LedgerContended: not acknowledged, ask again.
        """
        file = parse_wal_file(name, self.cluster.segment_size)
        identity = await asyncio.get_running_loop().run_in_executor(self._io, unchanged, path)
        key = (name, path, identity)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._archive(name, file, path), name=f"archive {name}")
            self._running[key] = task

            def ended(done: asyncio.Task[Archived]) -> None:
                self._running.pop(key, None)
                if not done.cancelled():
                    done.exception()  # looked at, also when every caller has gone away

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for everything under way."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _archive(self, name: str, file: WalFile, path: Path) -> Archived:
        loop = asyncio.get_running_loop()
        self._observe("archive: start")
        recorded = await loop.run_in_executor(self._io, self.catalog.file, name)
        if recorded is not None:
            digest, length = await loop.run_in_executor(self._cpu, self.digest, file, path)
            refuse_other_content(name, recorded, digest, length, self.catalog)
            return Archived(name, length, fresh=False)
        left = SEALINGS_MAX
        while True:
            left -= 1
            try:
                return await self._archive_new(name, file, path)
            except EpochOutdated:
                if not left:
                    raise
                await loop.run_in_executor(self._io, self._depositor.reread_keyrings)

    async def _archive_new(self, name: str, file: WalFile, path: Path) -> Archived:
        deposited = await self.deposit(name, file, path)
        record = deposited.record
        self._observe("archive: deposited")
        riding: list[Record] = []

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            riding.clear()
            recorded = catalog.file(name)
            if recorded is not None:
                refuse_other_content(name, recorded, record.digest, record.len, catalog)
                return ()
            riding.extend(self._companions(file))
            epochs = self._depositor.epoch_records_of_today(catalog, deposited.epochs)
            return (*epochs, record, *deposited.scans, *riding)

        await self._queue.submit(Proposal(name, decide))
        self._observe("archive: recorded")
        self._accompanied(riding)
        standing = await asyncio.get_running_loop().run_in_executor(self._io, self.catalog.file, name)
        return Archived(name, record.len, fresh=standing == record)

    async def deposit(self, name: str, file: WalFile, path: Path) -> Deposited:
        """Check, seal and store a file: its record and the keys it used, neither recorded yet."""
        loop = asyncio.get_running_loop()
        scanner = self._scanner if isinstance(file, SegmentFile) else None
        keep = scanner is not None and scanner.keeps
        offered = await loop.run_in_executor(
            self._io, partial(open_offered, self.cluster, file, path, keep=keep)
        )
        try:
            objects: list[StoredObject] = []
            epochs: set[str] = set()
            scans: tuple[ScanRecord, ...] = ()
            while offered.left or not objects:
                async with self._budget.hold(min(PART_BYTES, offered.left) * (2 if keep else 1)):
                    sealed = await loop.run_in_executor(self._cpu, self._seal_next, name, offered)
                    epochs.add(sealed.epoch)
                    self._observe("archive: sealed")
                    put = loop.run_in_executor(self._io, self._depositor.put, sealed)
                    if scanner is None or offered.left:
                        objects.append(await put)
                    else:
                        stored, scans = await asyncio.gather(put, self._scan(scanner, offered, put))
                        objects.append(stored)
                    self._observe("archive: put")
        finally:
            offered.handle.close()
        return Deposited(offered.record(name, tuple(objects)), frozenset(epochs), scans)

    async def _scan(
        self, scanner: Scans, offered: Offered, put: asyncio.Future[StoredObject]
    ) -> tuple[ScanRecord, ...]:
        """Walk a segment while it is being put; its last record may go on in the file behind it, which
        PostgreSQL has had time to write by then."""
        loop = asyncio.get_running_loop()
        found = [await loop.run_in_executor(self._cpu, scanner.late, offered)]
        scan = await loop.run_in_executor(self._cpu, scanner.scan, offered)
        if scan is not None:
            await asyncio.wait([put])
            found.append(await loop.run_in_executor(self._io, scanner.record, scan, offered))
        return tuple(record for record in found if record is not None)

    def _seal_next(self, name: str, offered: Offered) -> Deposit:
        raw = min(PART_BYTES, offered.left)
        count = max(1, -(-offered.length // PART_BYTES))
        part = (offered.length - offered.left) // PART_BYTES
        return self._depositor.seal_wal(
            name=name, file=offered.file, part=part, parts=count, raw=raw, plain=offered.chunks(raw)
        )

    def digest(self, file: WalFile, path: Path) -> tuple[str, int]:
        """Digest and length of a file whose name is recorded, after the same checks."""
        offered = open_offered(self.cluster, file, path)
        with offered.handle:
            return offered.digest()
