"""Writes pins into the repository and reads them: the versions of a moment as sealed Parquet parts.

Rules (docs/format.md, `pin`):
- All rows are gathered into files of this host first, copies included: that may take days. Then the parts
  are sealed, stored, and recorded together. Without the record there is no pin, and nothing refers to parts.
- Rows are in key order, each key once.
- Reading proves every part: its place, its digest, its number of rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from walarchiver.backup import commit_one
from walarchiver.catalog import Catalog
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, StoreTime
from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import StoreMs
from walarchiver.depositor import Depositor
from walarchiver.errors import MalformedObject, ObjectDamaged
from walarchiver.evidence.parquetrows import read_table, write_table
from walarchiver.evidence.shipping import Watched
from walarchiver.format.header import PART_BYTES_MAX, Expected
from walarchiver.format.records import PinPart, PinRecord, Record
from walarchiver.ledger import Ledger, Proposal
from walarchiver.repository import Repository

COLUMNS = ("key", "version_id", "size", "etag", "modified", "storage_class", "copy")
_TEXTS = frozenset({"key", "version_id", "etag", "storage_class", "copy"})
PART_ROWS = 100_000
"""Some ten MB of Parquet."""
PART_TEXT_MAX = 32 * 1024**2
"""Long keys make a part shorter: even what compression does nothing to has to fit one object."""
_BESIDE_KEY = 300
"""Bytes of the other columns of a row, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """The moment that is kept, of database and bucket."""

    pin: str
    backup: str
    timeline: int
    lsn: Lsn
    time: CommitTime
    cutoff: StoreMs
    kept_in: str
    """URL of the bucket with copies; empty: there are none."""
    reason: str


@dataclass(frozen=True, slots=True)
class _Gathered:
    file: Path
    rows: int


def write_pin(
    pinned: Pinned,
    watched: Watched,
    versions: Iterable[PinnedVersion],
    *,
    depositor: Depositor,
    ledger: Ledger,
    folder: Path,
    part_rows: int = PART_ROWS,
) -> PinRecord:
    """Keep the versions; returns when the pin is in the ledger. `folder`: for temporary files.

    Raises StoreUnavailable, StoreDenied, LedgerContended and their kin, and what `versions` raises.
    """
    with tempfile.TemporaryDirectory(prefix="walarchiver-pin-", dir=folder) as place:
        sums = _Sums()
        gathered = list(_gather(sums.counted(versions), Path(place), part_rows))
        parts, epochs = [], []
        for n, one in enumerate(gathered):
            content = one.file.read_bytes()
            assert len(content) <= PART_BYTES_MAX, "a part has to fit one object"
            deposit = depositor.seal_pin_part(
                pin=pinned.pin, timeline=pinned.timeline, n=n, raw=len(content), plain=(content,)
            )
            digest = blake3(content).hexdigest()
            parts.append(PinPart(n, one.rows, digest, len(content), depositor.put(deposit)))
            epochs.append(deposit.epoch)
    record = PinRecord(
        pin=pinned.pin,
        backup=pinned.backup,
        timeline=pinned.timeline,
        lsn=pinned.lsn,
        time=pinned.time,
        bucket=watched.bucket,
        prefix=watched.prefix,
        cutoff=StoreTime(pinned.cutoff * 1000),
        objects=sums.objects,
        bytes=sums.bytes,
        kept_in=pinned.kept_in,
        reason=pinned.reason,
        parts=tuple(parts),
    )

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        return (*depositor.epoch_records(catalog, dict.fromkeys(epochs)), record)

    commit_one(ledger, Proposal(f"pin {pinned.pin}", decide))
    return record


@dataclass(slots=True)
class _Sums:
    objects: int = 0
    bytes: int = 0

    def counted(self, versions: Iterable[PinnedVersion]) -> Iterator[PinnedVersion]:
        for version in versions:
            self.objects += 1
            self.bytes += version.size
            yield version


def _gather(versions: Iterable[PinnedVersion], folder: Path, part_rows: int) -> Iterator[_Gathered]:
    for n, part in enumerate(_parts(versions, part_rows)):
        file = folder / f"{n:08}.parquet"
        yield _Gathered(file, write_table(COLUMNS, _TEXTS, map(_spelled, part), file))


def _parts(versions: Iterable[PinnedVersion], part_rows: int) -> Iterator[list[PinnedVersion]]:
    part: list[PinnedVersion] = []
    size = 0
    for version in versions:
        part.append(version)
        size += len(version.key.encode()) + _BESIDE_KEY
        if len(part) == part_rows or size >= PART_TEXT_MAX:
            yield part
            part, size = [], 0
    if part:
        yield part


def _spelled(one: PinnedVersion) -> tuple[str | int, ...]:
    return (one.key, one.version_id, one.size, one.etag, one.modified, one.storage_class, one.copy)


# --- reading -----------------------------------------------------------------------------------------


def read_pin(
    repository: Repository,
    system: str,
    record: PinRecord,
    *,
    folder: Path,
    progress: Callable[[int, int], None] = lambda _part, _parts: None,
) -> Iterator[PinnedVersion]:
    """The versions of a pin, in key order. Needs a key that opens the archive.

    Raises KeyCannotOpen, ObjectMissing, ObjectDamaged, MalformedObject.
    """
    last = ""
    for n, part in enumerate(record.parts):
        progress(n, len(record.parts))
        if part.n != n:
            raise ObjectDamaged(f"pin {record.pin} has part {part.n} in the place of part {n}")
        expect = Expected(
            kind="pin",
            repo=repository.repo,
            system=system,
            tli=record.timeline,
            name=record.pin,
            part=n,
            raw=part.len,
        )
        content = b"".join(repository.plain(part.object, expect))
        if blake3(content).hexdigest() != part.digest:
            raise ObjectDamaged(f"{part.object.key} has another digest than the ledger recorded")
        rows = 0
        with tempfile.TemporaryDirectory(prefix="walarchiver-pin-", dir=folder) as place:
            file = Path(place) / "part.parquet"
            file.write_bytes(content)
            for values in read_table(COLUMNS, file):
                version = _version(values)
                if version.key <= last:
                    raise MalformedObject(f"pin {record.pin}: {version.key!r} does not follow {last!r}")
                last = version.key
                rows += 1
                yield version
        if rows != part.rows:
            raise ObjectDamaged(f"{part.object.key} has {rows} rows, {part.rows} are recorded")


def _version(values: tuple[object, ...]) -> PinnedVersion:
    match values:
        case (str(key), str(version), int(size), str(etag), int(modified), str(storage_class), str(copy)):
            return PinnedVersion(key, version, size, etag, StoreMs(modified), storage_class, copy)
    raise MalformedObject("a row of a pin cannot be understood")
