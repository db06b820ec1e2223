"""The pipeline of a base backup: cuts its stream into parts, seals them, puts them, records them.

Rules:
- One thread reads and fills a part's buffer; `workers` threads digest and seal; others put, so that a slow
  store costs no core. Between them is a bounded number of buffers, and of sealed bytes (backuproom.py):
  PostgreSQL waits when they are all in use (backpressure, no spool).
- A buffer is filled again once its part is sealed; plain bytes are copied once, off the connection. A body is
  dropped as soon as it is durable, before its part is recorded.
- No part tears a piece of a file that the `digests` part has a digest of (postgres/filedigests.py).
- A store that is out is waited for, no longer than `outage_s`; a put goes to the same name again, and what
  was recorded without an answer is looked for before it is recorded again.
- Parts enter the ledger in batches as they land; without the closing record they are no backup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from blake3 import blake3

from walarchiver.backuproom import PUTS_MAX, Room, SealedBytes
from walarchiver.catalog import Catalog
from walarchiver.depositor import Deposit, Depositor
from walarchiver.errors import BackupStalled, StoreUnavailable, WalarchiverError
from walarchiver.format.records import BackupPart, PartRecord, Record
from walarchiver.ledger import Ledger, Proposal
from walarchiver.ports import Clock
from walarchiver.postgres.basebackup import TablespaceStream
from walarchiver.postgres.filedigests import DIGEST_CHUNK_BYTES, Pieces, piece_digest
from walarchiver.postgres.tarstream import TarMember

PARTS_PER_RECORD = 16
_T = TypeVar("_T")


class Patience:
    """Asks a store that is out again, up to a bound."""

    def __init__(
        self, clock: Clock, outage_s: float, say: Callable[[str], None], *, pause_s: float = 2.0
    ) -> None:
        self._clock = clock
        self._outage_s = outage_s
        self._say = say
        self._pause_s = pause_s
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._waiting = 0

    def give_up(self) -> None:
        """Nobody waits for the store any more."""
        self._given_up.set()

    def hold(self, act: Callable[[], _T]) -> _T:
        """What `act` returns, once the store answers. Raises BackupStalled, and what else `act` raises."""
        since_s: float | None = None
        while True:
            try:
                done = act()
            except StoreUnavailable as error:
                now_s = self._clock.monotonic_s()
                if since_s is None:
                    since_s = now_s
                    if self._outage_s > 0:
                        self._tell(1, f"the store does not answer, the backup waits for it: {error.message}")
                if self._outage_s <= 0 or self._given_up.wait(self._pause_s):
                    raise
                if now_s - since_s >= self._outage_s:
                    raise BackupStalled(
                        f"the store was out for {now_s - since_s:,.0f} s, longer than a backup may wait: "
                        f"{error.message}"
                    ) from error
            else:
                if since_s is not None:
                    self._tell(-1, "the store answers again, the backup goes on")
                return done

    def _tell(self, more: int, line: str) -> None:
        """Say when the first of all threads waits, and when none does any more."""
        with self._lock:
            self._waiting += more
            first_or_last = self._waiting == max(0, more)
        if first_or_last:
            self._say(line)


@dataclass(frozen=True, slots=True)
class _Cut:
    """One part: its plain bytes, where they lie, and the pieces of files in them."""

    number: int
    role: str
    stream: int
    offset: int
    plain: memoryview
    pieces: tuple[tuple[int, int], ...]
    """(offset in `plain`, length)."""
    buffer: bytearray | None
    """To be given back once `plain` is sealed."""


class PartUploads:
    """Seals and puts parts, and records them; the first failure ends it."""

    def __init__(
        self, depositor: Depositor, ledger: Ledger, *, backup: str, room: Room, patience: Patience
    ) -> None:
        self._depositor = depositor
        self._ledger = ledger
        self._backup = backup
        self._patience = patience
        self._sealing = ThreadPoolExecutor(room.workers, thread_name_prefix="backup-seal")
        self._putting = ThreadPoolExecutor(PUTS_MAX, thread_name_prefix="backup-put")
        self._sealed_bytes = SealedBytes(room.sealed_bytes)
        self._lock = threading.Lock()
        self._recording = threading.Lock()
        self._under_way: set[Future[None]] = set()
        self._landed: list[tuple[BackupPart, str]] = []
        self._digests: dict[int, bytes] = {}
        self._failure: BaseException | None = None
        self._next = 0
        self.buffers: SimpleQueue[bytearray] = SimpleQueue()
        self.parts: list[BackupPart] = []
        self.stored = 0
        self.timeline = 0

    def check(self) -> None:
        """Raises what an earlier part met."""
        if self._failure is not None:
            raise self._failure

    def add(
        self,
        role: str,
        stream: int,
        offset: int,
        plain: memoryview,
        *,
        pieces: tuple[tuple[int, int], ...] = (),
        buffer: bytearray | None = None,
    ) -> None:
        """Queue one part. Raises what an earlier part met."""
        self.check()
        cut = _Cut(self._next, role, stream, offset, plain, pieces, buffer)
        self._next += 1
        self._start(self._sealing, lambda: self._seal(cut))

    def digests(self) -> bytes:
        """The digests of all pieces, streams by number; call `settle` first."""
        return b"".join(self._digests[number] for number in sorted(self._digests))

    def settle(self) -> None:
        """Wait until everything queued is durable. Raises what a part met."""
        while True:
            with self._lock:
                future = next(iter(self._under_way), None)
            if future is None:
                break
            future.result()
            with self._lock:
                self._under_way.discard(future)
        self.check()

    def finish(self) -> tuple[BackupPart, ...]:
        """Wait for all, record what is not yet; every part in order."""
        self.settle()
        self._record_landed(at_least=1)
        self._sealing.shutdown()
        self._putting.shutdown()
        return tuple(sorted(self.parts, key=lambda part: part.n))

    def abandon(self) -> None:
        """End all threads; nothing more is recorded."""
        self._failure = self._failure or BackupStalled("the backup was given up")
        self._patience.give_up()
        self._sealing.shutdown(wait=True, cancel_futures=True)
        self._putting.shutdown(wait=True, cancel_futures=True)

    # --- threads -----------------------------------------------------------------------------------

    def _start(self, pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        with self._lock:
            self._under_way = {future for future in self._under_way if not future.done()}
            self._under_way.add(pool.submit(self._watched, work))

    def _watched(self, work: Callable[[], None]) -> None:
        """Keep the first failure, for those who wait."""
        try:
            work()
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _seal(self, cut: _Cut) -> None:
        plain, raw = cut.plain, len(cut.plain)
        held = 2 * raw
        self._sealed_bytes.take(held)
        try:
            if self._failure is not None:
                return
            digest = blake3(plain).hexdigest()
            if cut.role == "tar":
                self._digests[cut.number] = b"".join(
                    piece_digest(plain[at : at + length]) for at, length in cut.pieces
                )
            deposit = self._patience.hold(  # its epoch key may have to be stored first
                lambda: self._depositor.seal_backup_part(
                    backup=self._backup, timeline=self.timeline, part=cut.number, raw=raw, plain=plain
                )
            )
            body_bytes, sealed = len(deposit.body), [deposit]
            del deposit
            self._start(self._putting, lambda: self._put(cut, raw, digest, sealed, body_bytes))
            held -= body_bytes  # those are given back once they are durable
        finally:
            self._sealed_bytes.give(held)
            if cut.buffer is not None:
                self.buffers.put(cut.buffer)

    def _put(self, cut: _Cut, raw: int, digest: str, sealed: list[Deposit], body_bytes: int) -> None:
        epoch = sealed[0].epoch
        try:
            if self._failure is not None:
                return
            stored = self._patience.hold(lambda: self._depositor.put(sealed[0]))
        finally:
            sealed.clear()
            self._sealed_bytes.give(body_bytes)
        part = BackupPart(
            n=cut.number,
            role=cut.role,
            stream=cut.stream,
            offset=cut.offset,
            raw=raw,
            digest=digest,
            object=stored,
        )
        with self._lock:
            self.parts.append(part)
            self.stored += stored.stored_len
            self._landed.append((part, epoch))
        self._record_landed(at_least=PARTS_PER_RECORD)

    # --- ledger --------------------------------------------------------------------------------------

    def _record_landed(self, *, at_least: int) -> None:
        with self._recording:
            with self._lock:
                if len(self._landed) < at_least:
                    return
                batch, self._landed = self._landed[:PARTS_PER_RECORD], self._landed[PARTS_PER_RECORD:]
            parts = tuple(sorted((part for part, _ in batch), key=lambda part: part.n))
            epochs = {epoch for _, epoch in batch}
            tried = False

            def decide(catalog: Catalog) -> tuple[Record, ...]:
                if tried and self._recorded(catalog, parts[0].n):
                    return ()
                return (
                    *self._depositor.epoch_records(catalog, epochs),
                    PartRecord(backup=self._backup, parts=parts),
                )

            def commit() -> None:
                nonlocal tried
                try:
                    commit_one(self._ledger, Proposal(f"part {self._backup} {parts[0].n}", decide))
                finally:
                    tried = True

            self._patience.hold(commit)

    def _recorded(self, catalog: Catalog, number: int) -> bool:
        """Whether a try without an answer has recorded this part after all."""
        return any(part.n == number for part in catalog.backup_parts(self._backup))


class PartSink:
    """Receives the backup stream (BackupSink of postgres/basebackup.py) and cuts it into parts."""

    def __init__(self, uploads: PartUploads, *, part_bytes: int, buffers: int) -> None:
        self._uploads = uploads
        self._part_bytes = part_bytes
        self._to_make = buffers
        self._buffer: bytearray | None = None
        self._view = memoryview(b"")
        self._filled = 0
        self._stream: TablespaceStream | None = None
        self._offset = 0
        self._pieces = Pieces(())
        self._manifest = bytearray()
        self.streams: list[TablespaceStream] = []
        self.raw = 0

    @property
    def digesting(self) -> bool:
        """Whether parts are large enough to hold every piece whole."""
        return self._part_bytes >= DIGEST_CHUNK_BYTES

    def start_stream(self, stream: TablespaceStream, members: Sequence[TarMember]) -> None:
        self._end_stream()
        self._stream = stream
        self._offset = 0
        self._pieces = Pieces(members)
        self.streams.append(stream)

    def data(self, chunk: bytes | memoryview) -> None:
        size = len(chunk)
        self.raw += size
        end = self._filled + size
        if self._buffer is not None and end < self._part_bytes:  # by far most often
            self._view[self._filled : end] = chunk
            self._filled = end
            return
        view = memoryview(chunk)
        while len(view):
            if self._buffer is None:
                self._take_buffer()
            step = min(self._part_bytes - self._filled, len(view))
            self._view[self._filled : self._filled + step] = view[:step]
            self._filled += step
            view = view[step:]
            if self._filled == self._part_bytes:
                self._cut()

    def manifest(self, chunk: bytes | memoryview) -> None:
        self._manifest += chunk

    def finish(self) -> bytes:
        """Send what is left of the last stream; the manifest."""
        self._end_stream()
        return bytes(self._manifest)

    def add_whole(self, role: str, content: bytes) -> None:
        """Parts of content that is no tar stream."""
        view = memoryview(content)
        for offset in range(0, max(1, len(content)), self._part_bytes):
            self._uploads.add(role, 0, offset, view[offset : offset + self._part_bytes])

    def _take_buffer(self) -> None:
        self._uploads.check()
        if self._to_make:
            self._to_make -= 1
            self._buffer = bytearray(self._part_bytes)
        else:
            self._buffer = self._uploads.buffers.get()
            self._uploads.check()
        self._view = memoryview(self._buffer)

    def _cut(self) -> None:
        """The buffer is full: send what is whole, take the torn piece along into the next one."""
        end = self._offset + self._filled
        stop = self._pieces.cut(end) if self.digesting else end
        torn = bytes(self._view[stop - self._offset : self._filled])
        self._send(stop)
        if torn:
            self._take_buffer()
            self._view[: len(torn)] = torn
            self._filled = len(torn)

    def _end_stream(self) -> None:
        if self._filled:
            self._send(self._offset + self._filled)

    def _send(self, stop: int) -> None:
        assert self._stream is not None, "no bytes come before a stream begins"
        start, buffer = self._offset, self._buffer
        pieces = tuple(self._pieces_before(start, stop)) if self.digesting else ()
        self._uploads.add(
            "tar", self._stream.number, start, self._view[: stop - start], pieces=pieces, buffer=buffer
        )
        self._buffer = None
        self._offset = stop
        self._filled = 0

    def _pieces_before(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for at, length in self._pieces.before(stop):
            yield at - start, length


def commit_one(ledger: Ledger, proposal: Proposal) -> None:
    """Record one proposal; raises its refusal."""
    (outcome,) = ledger.commit([proposal])
    if isinstance(outcome, WalarchiverError):
        raise outcome
