"""Ledger records: the facts a repository consists of (schemas in docs/format.md).

Rules:
- Every record is a frozen value with a `kind`; `record_to_json`/`record_from_json` are inverses.
- LSNs are text (`0/3000148`), instants RFC 3339 UTC with six digits, system identifiers decimal
  text, digests and hashes lower-case hex, sizes integers below 2**53.
- A kind that this release does not know parses to `UnknownRecord`: part of the chain, else ignored.
- A known kind with a missing, extra or ill-typed field is refused (MalformedObject): a record is
  either understood whole or not at all. New facts come as new kinds or optional fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.format.bucketrecords import BucketIndexRecord as BucketIndexRecord
from walarchiver.format.bucketrecords import BucketJournalRecord as BucketJournalRecord
from walarchiver.format.bucketrecords import PinPart as PinPart
from walarchiver.format.bucketrecords import PinRecord as PinRecord
from walarchiver.format.bucketrecords import TieRecord as TieRecord
from walarchiver.format.scans import ScanRecord
from walarchiver.format.stored import StoredObject as StoredObject


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    kind: ClassVar[str] = "cluster"
    name: str
    system: str
    major: int
    segment_size: int
    data_checksums: bool


@dataclass(frozen=True, slots=True)
class KeyringRecord:
    kind: ClassVar[str] = "keyring"
    n: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """A revision of an epoch key object is durable with this SHA-256."""

    kind: ClassVar[str] = "epoch"
    epoch: str
    sha256: str
    rev: int | None = None
    """None is revision 0; rotations record 1 to 9999."""


@dataclass(frozen=True, slots=True)
class FirstPage:
    """The identity in a segment's first page (long header)."""

    magic: int
    system: str
    timeline: int
    address: Lsn
    segment_size: int


@dataclass(frozen=True, slots=True)
class WalRecord:
    """A segment or a `.partial`: digest is BLAKE3-256 of the plain bytes."""

    kind: ClassVar[str] = "wal"
    name: str
    digest: str
    len: int
    objects: tuple[StoredObject, ...]
    page: FirstPage


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A timeline history file. `forks` repeats its (public) content: parent and switch LSN."""

    kind: ClassVar[str] = "history"
    name: str
    digest: str
    len: int
    objects: tuple[StoredObject, ...]
    forks: tuple[ForkFact, ...]


@dataclass(frozen=True, slots=True)
class ForkFact:
    parent: int
    switch: Lsn


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """A backup history file (`.backup`)."""

    kind: ClassVar[str] = "label"
    name: str
    digest: str
    len: int
    objects: tuple[StoredObject, ...]


@dataclass(frozen=True, slots=True)
class BackupPart:
    """One part of a base backup: `raw` plain bytes of `stream` starting at `offset`.

    `role`: `tar` (the tablespace's tar stream as PostgreSQL sent it), `manifest`
    (backup_manifest), `index` (where each file lies in the tar streams), `digests` (of every file's
    content, postgres/filedigests.py), `config` (tar of
    configuration files outside the data directory), `facts` (relation map and other contents
    that do not belong in clear text). `stream` numbers the tar streams; 0 otherwise.
    """

    n: int
    role: str
    stream: int
    offset: int
    raw: int
    digest: str
    object: StoredObject


@dataclass(frozen=True, slots=True)
class PartRecord:
    """Parts of a base backup that have landed; the backup counts only when `backup` closes it."""

    kind: ClassVar[str] = "part"
    backup: str
    parts: tuple[BackupPart, ...]


@dataclass(frozen=True, slots=True)
class TablespaceFact:
    oid: int
    stream: int
    path: str | None
    """Original location; None for the data directory itself."""


@dataclass(frozen=True, slots=True)
class ExtensionFact:
    database: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class DatabaseFact:
    name: str
    oid: int
    encoding: str
    collate: str
    ctype: str
    provider: str
    """Collation provider: libc, icu or builtin."""
    collation_version: str | None


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What it takes to open the backup in ten years."""

    version: str
    """server_version as the server prints it."""
    version_num: int
    platform: str
    """The text of version(): compiler, architecture, 64-bit."""
    block_size: int
    wal_block_size: int
    segment_size: int
    data_checksums: bool
    encoding: str
    databases: tuple[DatabaseFact, ...]
    extensions: tuple[ExtensionFact, ...]
    limits: LimitFacts
    packages: str
    """Package or image ids when they can be told, else empty."""


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Settings that a recovering server must have at least (recovery.md 2.5)."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """A finished base backup. `parts_sha256` covers the canonical JSON of its parts, by n."""

    kind: ClassVar[str] = "backup"
    backup: str
    """`<start time compact>-<8 random hex>`, for example 20261122T143206Z-1f2e3d4c."""
    method: str
    """`full` or `incremental`."""
    source: str
    """`primary` or `standby`."""
    timeline: int
    start_lsn: Lsn
    checkpoint_lsn: Lsn
    stop_lsn: Lsn
    start_time: CommitTime
    """Server clock when the backup began."""
    stop_time: CommitTime
    """Server clock once the backup had ended: no event before stop_lsn is newer, clocks being sane."""
    raw: int
    """Plain bytes of all tar streams."""
    stored: int
    """Stored bytes of all parts."""
    parts: int
    parts_sha256: str
    tablespaces: tuple[TablespaceFact, ...]
    facts: BackupFacts
    prior: str | None = None
    """The backup that an incremental one builds on; None for a full one (backupchain.py)."""


@dataclass(frozen=True, slots=True)
class HorizonRecord:
    """At `time` the server's insert position was `lsn`: WAL up to `lsn` tells all until `time`."""

    kind: ClassVar[str] = "horizon"
    time: CommitTime
    lsn: Lsn
    timeline: int


@dataclass(frozen=True, slots=True)
class GapRecord:
    """WAL that is known to be missing: segment names first..last of one timeline, with the cause."""

    kind: ClassVar[str] = "gap"
    first: str
    last: str
    cause: str


@dataclass(frozen=True, slots=True)
class SupersedeRecord:
    """The file `name` is the recorded one with digest `new` from here on, if it was the one with `old`."""

    kind: ClassVar[str] = "supersede"
    name: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """The valid entry `seq`, earlier on the same chain, has this hash."""

    kind: ClassVar[str] = "checkpoint"
    seq: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UnknownRecord:
    """A record of a kind that this release does not know; kept as its canonical JSON."""

    kind: str
    content: bytes


Record = (
    ClusterRecord
    | KeyringRecord
    | EpochRecord
    | WalRecord
    | HistoryRecord
    | LabelRecord
    | ScanRecord
    | PartRecord
    | BackupRecord
    | HorizonRecord
    | GapRecord
    | SupersedeRecord
    | CheckpointRecord
    | TieRecord
    | BucketIndexRecord
    | PinRecord
    | BucketJournalRecord
    | UnknownRecord
)
