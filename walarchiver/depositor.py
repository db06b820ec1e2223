"""Depositor: seals plain bytes to the custodians and makes them durable under a fresh name.

Rules (docs/format.md, "Keys and trust", "Writes"):
- The epoch key lives in memory only. A new one is made at start, after a day, after 100 000
  objects and when the keyring changes; its key object is durable before the key is used, and its
  `epoch` record enters the ledger before or together with the first object that uses it, and never
  behind a keyring later than the one whose custodians the key was wrapped to.
- Who is no writer in the newest keyring seals nothing: it could never be recorded.
- Object names carry 16 random hex digits, so a taken name means that an earlier try of this very
  put succeeded.
- Drawing an epoch key waits for the store. Who seals in threads that others need, too, calls `prepare` in
  another one first, unless it `is_prepared`.
- Bodies are built in memory, one part at a time; callers bound how many are under way.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.core.objectname import (
    base_part_key,
    bucket_index_key,
    bucket_journal_key,
    epoch_key_name,
    history_key,
    label_key,
    pin_key,
    wal_key,
)
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    WalFile,
)
from walarchiver.errors import EpochOutdated, KeyTaken, WriterRevoked
from walarchiver.format.header import Header
from walarchiver.format.keyring import Keyring, Role
from walarchiver.format.records import EpochRecord, Record, StoredObject
from walarchiver.format.seal import FAST, ZstdParams, seal, seal_whole
from walarchiver.format.signed import Signer
from walarchiver.keys.epochs import new_epoch
from walarchiver.ports import Clock, ObjectStore, Random, Recipient

EPOCH_OBJECTS_MAX = 100_000
EPOCH_SECONDS_MAX = 86_400.0
OID_BYTES = 8
NO_TIMELINE = 1
"""What the header of a body says that belongs to no timeline (docs/format.md, section 3)."""


@dataclass(frozen=True, slots=True)
class Deposit:
    """A sealed body on its way to the store."""

    key: str
    body: bytes | bytearray
    sha256: str
    epoch: str


@dataclass(slots=True)
class _Epoch:
    id: str
    key: bytes
    born_s: float
    keyring_n: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The record of an epoch key, and the keyring whose custodians it was wrapped to."""

    record: EpochRecord
    keyring_n: int


class Depositor:
    """Seals for one cluster with one writer's key. Thread-safe; `seal_*` is CPU, `put` is network."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        repo: str,
        system: str,
        segment_size: SegmentBytes,
        signer: Signer,
        keyring: Callable[[], Keyring],
        recipients: Callable[[Keyring], Sequence[Recipient]],
        clock: Clock,
        random: Random,
        zstd: ZstdParams = FAST,
        reread: Callable[[], object] = lambda: None,
    ) -> None:
        """`keyring` gives the newest one known; `reread` looks for newer ones in the store."""
        self._store = store
        self._repo = repo
        self._system = system
        self._size = segment_size
        self._signer = signer
        self._keyring = keyring
        self._recipients = recipients
        self._clock = clock
        self._random = random
        self._zstd = zstd
        self._sealing_s = 0.0
        self._lock = threading.Lock()
        """Held for a moment only."""
        self._drawing = threading.Lock()
        self._epoch: _Epoch | None = None
        self._reread = reread
        self._drawn: dict[str, _Drawn] = {}

    def _oid(self) -> str:
        return self._random.token(OID_BYTES).hex()

    # --- epoch keys ------------------------------------------------------------------------------

    @property
    def is_prepared(self) -> bool:
        """Whether there is an epoch key that can be sealed with now."""
        with self._lock:
            return self._usable(self._keyring())

    def prepare(self) -> None:
        """Draw an epoch key if one is due. Raises WriterRevoked, StoreUnavailable, StoreDenied."""
        with self._drawing:
            keyring = self._keyring()
            self._check_writer(keyring)
            with self._lock:
                if self._usable(keyring):
                    return
            self._new_epoch(keyring, self._clock.monotonic_s())

    def _current_epoch(self) -> _Epoch:
        while True:
            keyring = self._keyring()
            self._check_writer(keyring)
            with self._lock:
                if self._usable(keyring):
                    assert self._epoch is not None
                    self._epoch.used += 1
                    return self._epoch
            self.prepare()

    def _check_writer(self, keyring: Keyring) -> None:
        if not keyring.has_role(Role.WRITER, self._signer.id, self._system):
            raise WriterRevoked(
                f"key {self._signer.id} is no writer of system {self._system} in keyring {keyring.n}"
            )

    def _usable(self, keyring: Keyring) -> bool:
        epoch = self._epoch
        return (
            epoch is not None
            and epoch.used < EPOCH_OBJECTS_MAX
            and self._clock.monotonic_s() - epoch.born_s <= EPOCH_SECONDS_MAX
            and keyring.n == epoch.keyring_n
        )

    def _new_epoch(self, keyring: Keyring, now_s: float) -> None:
        while True:
            fresh = new_epoch(
                self._recipients(keyring),
                repo=self._repo,
                system=self._system,
                signer=self._signer,
                from_us=self._clock.now_us(),
                random=self._random,
            )
            try:
                self._store.put_new(epoch_key_name(self._system, fresh.epoch, 0), fresh.raw)
            except KeyTaken:
                # Ours from an ambiguous try, or somebody's: either way a key we cannot be sure of.
                continue
            drawn = _Drawn(EpochRecord(epoch=fresh.epoch, sha256=fresh.sha256), keyring.n)
            with self._lock:
                self._drawn[fresh.epoch] = drawn
                self._epoch = _Epoch(fresh.epoch, fresh.key, born_s=now_s, keyring_n=keyring.n)
            return

    def epoch_records(self, catalog: Catalog, epochs: Iterable[str]) -> tuple[Record, ...]:
        """The `epoch` records that must enter the ledger no later than objects sealed with these keys.

        Raises EpochOutdated when the chain's keyring is later than the one such a key was wrapped for.
        """
        due = [self._drawn[epoch] for epoch in sorted(set(epochs)) if catalog.epoch(epoch) is None]
        self._check_custodians(catalog, due)
        return tuple(drawn.record for drawn in due)

    def epoch_records_of_today(self, catalog: Catalog, epochs: Iterable[str]) -> tuple[Record, ...]:
        """As `epoch_records`, and raises EpochOutdated also for a key that is recorded already: a
        custodian who was removed shall not open what can still be sealed anew."""
        self._check_custodians(catalog, [self._drawn[epoch] for epoch in epochs])
        return self.epoch_records(catalog, epochs)

    @staticmethod
    def _check_custodians(catalog: Catalog, epochs: Iterable[_Drawn]) -> None:
        in_force = catalog.keyring_n()
        for drawn in epochs:
            if drawn.keyring_n < in_force:
                raise EpochOutdated(
                    f"epoch key {drawn.record.epoch} was wrapped to the custodians of keyring "
                    f"{drawn.keyring_n}, and keyring {in_force} is in force"
                )

    # --- effort ----------------------------------------------------------------------------------

    def compress_with(self, params: ZstdParams) -> None:
        """From the next object on."""
        self._zstd = params

    def _note_sealing(self, seconds: float) -> None:
        with self._lock:
            self._sealing_s += seconds

    @property
    def sealing_s(self) -> float:
        """How long threads have been busy with compressing and sealing WAL, together."""
        return self._sealing_s

    def reread_keyrings(self) -> None:
        """Look for newer keyrings in the store. Raises KeyringBroken, StoreUnavailable."""
        self._reread()

    # --- sealing -----------------------------------------------------------------------------------

    def seal_wal(
        self,
        *,
        name: str,
        file: WalFile,
        part: int,
        parts: int,
        raw: int,
        plain: Iterable[bytes] | memoryview,
    ) -> Deposit:
        """Seal one part of a WAL file of any kind. Raises what `plain` raises."""
        match file:
            case SegmentFile(segment):
                key = self._wal_key(segment, partial=False, part=part if parts > 1 else None)
                kind, timeline = "wal", segment.timeline
            case PartialFile(segment):
                key = self._wal_key(segment, partial=True, part=part if parts > 1 else None)
                kind, timeline = "wal", segment.timeline
            case HistoryFile(timeline):
                key, kind = history_key(self._system, timeline, self._oid()), "history"
            case BackupHistoryFile(segment):
                key, kind, timeline = (
                    label_key(self._system, file, self._size, self._oid()),
                    "label",
                    segment.timeline,
                )
        return self._seal(
            key, kind=kind, name=name, timeline=timeline, part=part, parts=parts, raw=raw, plain=plain
        )

    def _wal_key(self, segment: Segment, *, partial: bool, part: int | None) -> str:
        return wal_key(self._system, segment, self._size, partial=partial, oid=self._oid(), part=part)

    def seal_backup_part(
        self, *, backup: str, timeline: int, part: int, raw: int, plain: Iterable[bytes] | memoryview
    ) -> Deposit:
        """Seal one part of a base backup; one that lies in memory at once takes less work."""
        key = base_part_key(self._system, backup, part, self._oid())
        return self._seal(
            key, kind="base", name=backup, timeline=timeline, part=part, parts=None, raw=raw, plain=plain
        )

    def seal_index_piece(
        self, *, bucket: str, generation: str, n: int, raw: int, plain: Iterable[bytes]
    ) -> Deposit:
        """Seal one piece of a bucket's version index."""
        key = bucket_index_key(bucket, generation, n, self._oid())
        return self._seal_numbered(key, "bindex", f"{bucket}/{generation}", n, raw=raw, plain=plain)

    def seal_journal_piece(
        self, *, bucket: str, journal: str, n: int, raw: int, plain: Iterable[bytes]
    ) -> Deposit:
        """Seal one piece of what a restore did to a bucket."""
        key = bucket_journal_key(bucket, journal, n, self._oid())
        return self._seal_numbered(key, "bjournal", f"{bucket}/{journal}", n, raw=raw, plain=plain)

    def seal_pin_part(self, *, pin: str, timeline: int, n: int, raw: int, plain: Iterable[bytes]) -> Deposit:
        """Seal one part of the versions that a pin keeps."""
        key = pin_key(self._system, pin, n, self._oid())
        return self._seal_numbered(key, "pin", pin, n, raw=raw, plain=plain, timeline=timeline)

    def _seal_numbered(
        self,
        key: str,
        kind: str,
        name: str,
        part: int,
        *,
        raw: int,
        plain: Iterable[bytes],
        timeline: int = NO_TIMELINE,
    ) -> Deposit:
        return self._seal(
            key, kind=kind, name=name, timeline=timeline, part=part, parts=None, raw=raw, plain=plain
        )

    def _seal(
        self,
        key: str,
        *,
        kind: str,
        name: str,
        timeline: int,
        part: int,
        parts: int | None,
        raw: int,
        plain: Iterable[bytes] | memoryview,
    ) -> Deposit:
        epoch = self._current_epoch()
        header = Header(
            kind=kind,
            repo=self._repo,
            system=self._system,
            tli=timeline,
            name=name,
            part=part,
            parts=parts,
            raw=raw,
            epoch=epoch.id,
            writer=self._signer.id,
        )
        if isinstance(plain, memoryview):
            began_s = self._clock.monotonic_s()
            sealed = seal_whole(epoch.key, header, plain, params=self._zstd)
            self._note_sealing(self._clock.monotonic_s() - began_s)
        else:
            sealed = seal(epoch.key, header, plain, params=self._zstd)
        return Deposit(key=key, body=sealed.body, sha256=sealed.sha256, epoch=epoch.id)

    def put(self, deposit: Deposit) -> StoredObject:
        """Make a sealed body durable. Raises StoreUnavailable, StoreDenied."""
        version_id = None
        with contextlib.suppress(KeyTaken):  # the random name is ours alone: an earlier try succeeded
            version_id = self._store.put_new(deposit.key, deposit.body).version_id
        return StoredObject(
            key=deposit.key, stored_len=len(deposit.body), stored_sha256=deposit.sha256, version_id=version_id
        )
