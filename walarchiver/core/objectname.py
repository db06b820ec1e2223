"""Every name in a repository, built and read in one place (docs/format.md, section 2).

Rules:
- Builders check their arguments with ValueError: a bad one is our bug, not the world's.
- Parsers answer None for a name that is not of their kind: strangers in a bucket are skipped.
- Hex groups that PostgreSQL made are upper case, ours are lower case; counts are decimal.
- `system` is the decimal text of the 64-bit system identifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from walarchiver.core.segment import (
    BackupHistoryFile,
    PartialFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    parse_wal_file,
    wal_file_name,
)
from walarchiver.errors import NotAWalFile

ROOT = "v1/"
CLUSTERS_PREFIX = "v1/c/"
BUCKETS_PREFIX = "v1/b/"
CHECKPOINTS_PREFIX = "v1/checkpoint/"
"""Not in the repository itself: names in the second place, which holds checkpoints only."""
KEYRING_PREFIX = "v1/keyring/"
PROBE_PREFIX = "v1/probe/"
READER_PREFIX = "v1/reader/"
ROLL_ENTRIES = 4096
"""Ledger entries in one roll-up; the first one's number is a multiple of it."""

_SYSTEM = re.compile(r"[1-9][0-9]{0,19}")
_REPO = re.compile(r"[0-9a-f]{32}")
_OID = re.compile(r"[0-9a-f]{16}")
_BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_KEYRING_KEY = re.compile(r"v1/keyring/([0-9]{4})\.json")
_LEDGER_KEY = re.compile(r"v1/c/([1-9][0-9]{0,19})/ledger/([0-9a-f]{16})\.json")
_EPOCH_KEY = re.compile(r"v1/c/([1-9][0-9]{0,19})/keys/([0-9a-f]{16})\.([0-9]{4})\.json")
_CHECKPOINT_KEY = re.compile(r"v1/checkpoint/([0-9a-f]{32})/([1-9][0-9]{0,19})/([0-9a-f]{16})\.json")
_ROLL_KEY = re.compile(r"v1/c/([1-9][0-9]{0,19})/roll/([0-9a-f]{16})-([0-9a-f]{16})\.zst")
_WAL_KEY = re.compile(
    r"v1/c/([1-9][0-9]{0,19})/wal/([0-9A-F]{8})/([0-9A-F]{8})/([0-9A-F]{24}(?:\.partial)?)"
    r"\.([0-9a-f]{16})(?:\.([0-9]{4}))?"
)
_BASE_KEY = re.compile(
    r"v1/c/([1-9][0-9]{0,19})/base/([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})/([0-9]{8})\.([0-9a-f]{16})"
)
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_READER_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z]+)?")
_CLUSTER_KEY = re.compile(r"v1/c/([1-9][0-9]{0,19})/.*")


@dataclass(frozen=True, slots=True)
class LedgerName:
    system: str
    seq: int


@dataclass(frozen=True, slots=True)
class EpochName:
    system: str
    epoch: str
    revision: int


@dataclass(frozen=True, slots=True)
class RollName:
    system: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CheckpointName:
    repo: str
    system: str
    seq: int


@dataclass(frozen=True, slots=True)
class WalName:
    """`part` is None when the whole file is one object."""

    system: str
    file: SegmentFile | PartialFile
    oid: str
    part: int | None


@dataclass(frozen=True, slots=True)
class BasePartName:
    system: str
    backup: str
    part: int
    oid: str


def system_text(system: int) -> str:
    """The spelling of a system identifier in names and records: decimal, no leading zero."""
    if not 0 < system < 2**64:
        raise ValueError(f"{system} is not a system identifier")
    return str(system)


def is_system_text(text: str) -> bool:
    """Whether `text` spells a system identifier."""
    return _SYSTEM.fullmatch(text) is not None and int(text) < 2**64


def is_oid(text: str) -> bool:
    """Whether `text` is 16 lower-case hex digits (object, epoch, boot and member ids)."""
    return _OID.fullmatch(text) is not None


def is_backup_id(text: str) -> bool:
    """Whether `text` looks like `20261122T143206Z-1f2e3d4c`."""
    return _BACKUP_ID.fullmatch(text) is not None


def _system(system: str) -> str:
    if not is_system_text(system):
        raise ValueError(f"{system!r} is not a system identifier")
    return system


def _oid(oid: str) -> str:
    if not is_oid(oid):
        raise ValueError(f"{oid!r} is not 16 hex digits")
    return oid


def _count(number: int, digits: int) -> str:
    if not 0 <= number < 10**digits:
        raise ValueError(f"{number} does not fit {digits} digits")
    return f"{number:0{digits}d}"


def _sequence(number: int) -> str:
    if not 0 <= number < 2**64:
        raise ValueError(f"{number} is not a sequence number")
    return f"{number:016x}"


# --- the repository ------------------------------------------------------------------------


def repo_key() -> str:
    """The repository mark."""
    return "v1/REPO"


def probe_key(oid: str) -> str:
    """A scratch object by which a store is asked what it does; no reader looks at it."""
    return f"{PROBE_PREFIX}{_oid(oid)}"


def reader_key(name: str) -> str:
    """A file that helps people to read the repository without our program; nothing trusts it."""
    if _READER_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name below {READER_PREFIX}")
    return f"{READER_PREFIX}{name}"


def keyring_key(n: int) -> str:
    """Keyring number `n`, from 1."""
    if n < 1:
        raise ValueError(f"there is no keyring {n}")
    return f"{KEYRING_PREFIX}{_count(n, 4)}.json"


def parse_keyring_key(key: str) -> int | None:
    """The number of a keyring's name; None for another name."""
    match = _KEYRING_KEY.fullmatch(key)
    return int(match[1]) if match and int(match[1]) > 0 else None


# --- one cluster -----------------------------------------------------------------------------


def cluster_prefix(system: str) -> str:
    """Everything of one system identifier."""
    return f"{CLUSTERS_PREFIX}{_system(system)}/"


def cluster_of(key: str) -> str | None:
    """The system identifier that a name lies under; None outside of v1/c/."""
    match = _CLUSTER_KEY.fullmatch(key)
    return match[1] if match and is_system_text(match[1]) else None


def ledger_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}ledger/"


def ledger_key(system: str, seq: int) -> str:
    return f"{ledger_prefix(system)}{_sequence(seq)}.json"


def parse_ledger_key(key: str) -> LedgerName | None:
    match = _LEDGER_KEY.fullmatch(key)
    return LedgerName(match[1], int(match[2], 16)) if match and is_system_text(match[1]) else None


def epoch_keys_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}keys/"


def epoch_key_prefix(system: str, epoch: str) -> str:
    """All revisions of one epoch's key object."""
    return f"{epoch_keys_prefix(system)}{_oid(epoch)}."


def epoch_key_name(system: str, epoch: str, revision: int) -> str:
    """One revision of an epoch's key object."""
    return f"{epoch_key_prefix(system, epoch)}{_count(revision, 4)}.json"


def parse_epoch_key_name(key: str) -> EpochName | None:
    match = _EPOCH_KEY.fullmatch(key)
    return EpochName(match[1], match[2], int(match[3])) if match and is_system_text(match[1]) else None


def roll_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}roll/"


def roll_key(system: str, first: int, block: int = ROLL_ENTRIES) -> str:
    """The roll-up of the ledger entries `first` to `first` + 4095."""
    if first % block:
        raise ValueError(f"roll-ups do not begin at {first}")
    return f"{roll_prefix(system)}{_sequence(first)}-{_sequence(first + block - 1)}.zst"


def parse_roll_key(key: str, block: int = ROLL_ENTRIES) -> RollName | None:
    match = _ROLL_KEY.fullmatch(key)
    if match is None or not is_system_text(match[1]):
        return None
    first, last = int(match[2], 16), int(match[3], 16)
    aligned = first % block == 0 and last == first + block - 1
    return RollName(match[1], first, last) if aligned else None


# --- the second place --------------------------------------------------------------------------


def checkpoints_prefix(repo: str, system: str) -> str:
    """All checkpoints of one chain."""
    if _REPO.fullmatch(repo) is None:
        raise ValueError(f"{repo!r} is not a repository id")
    return f"{CHECKPOINTS_PREFIX}{repo}/{_system(system)}/"


def checkpoint_key(repo: str, system: str, seq: int) -> str:
    """The checkpoint that names entry `seq`."""
    return f"{checkpoints_prefix(repo, system)}{_sequence(seq)}.json"


def parse_checkpoint_key(key: str) -> CheckpointName | None:
    match = _CHECKPOINT_KEY.fullmatch(key)
    if match is None or not is_system_text(match[2]):
        return None
    return CheckpointName(match[1], match[2], int(match[3], 16))


# --- sealed bodies ---------------------------------------------------------------------------


def wal_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}wal/"


def wal_key(
    system: str, segment: Segment, size: SegmentBytes, *, partial: bool, oid: str, part: int | None
) -> str:
    """A WAL segment or `.partial`, or part `part` of one over 64 MiB."""
    name = segment.name(size)
    shown = f"{name}.partial" if partial else name
    tail = "" if part is None else f".{_count(part, 4)}"
    return f"{wal_prefix(system)}{name[:8]}/{name[8:16]}/{shown}.{_oid(oid)}{tail}"


def parse_wal_key(key: str, size: SegmentBytes) -> WalName | None:
    """What a name below wal/ stands for; None when no segment of that size has this name."""
    match = _WAL_KEY.fullmatch(key)
    if match is None or not is_system_text(match[1]) or match[4][:16] != match[2] + match[3]:
        return None
    try:
        file = parse_wal_file(match[4], size)
    except NotAWalFile:
        return None
    assert isinstance(file, SegmentFile | PartialFile)
    return WalName(match[1], file, match[5], None if match[6] is None else int(match[6]))


def history_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}history/"


def history_key(system: str, timeline: int, oid: str) -> str:
    """The history file of a timeline from 2 on."""
    if not 1 < timeline < 2**32:
        raise ValueError(f"timeline {timeline} has no history file")
    return f"{history_prefix(system)}{timeline:08X}.{_oid(oid)}"


def label_key(system: str, file: BackupHistoryFile, size: SegmentBytes, oid: str) -> str:
    """A backup history file."""
    return f"{cluster_prefix(system)}label/{wal_file_name(file, size)}.{_oid(oid)}"


def base_prefix(system: str) -> str:
    return f"{cluster_prefix(system)}base/"


def base_part_key(system: str, backup_id: str, part: int, oid: str) -> str:
    """Part `part` of a base backup."""
    if not is_backup_id(backup_id):
        raise ValueError(f"{backup_id!r} is not a backup id")
    return f"{base_prefix(system)}{backup_id}/{_count(part, 8)}.{_oid(oid)}"


def parse_base_part_key(key: str) -> BasePartName | None:
    match = _BASE_KEY.fullmatch(key)
    if match is None or not is_system_text(match[1]):
        return None
    return BasePartName(match[1], match[2], int(match[3]), match[4])


# --- the application's bucket ------------------------------------------------------------------


def is_bucket_name(text: str) -> bool:
    """Whether `text` can stand in a name as a bucket's (S3 User Guide, "Bucket naming rules")."""
    return _BUCKET_NAME.fullmatch(text) is not None


def bucket_index_key(bucket: str, generation: str, n: int, oid: str) -> str:
    """Piece `n` of one generation of a bucket's version index."""
    return f"{_bucket(bucket)}index/{_oid(generation)}/{_count(n, 8)}.{_oid(oid)}"


def bucket_journal_key(bucket: str, journal: str, n: int, oid: str) -> str:
    """Piece `n` of what one restore did to a bucket."""
    return f"{_bucket(bucket)}journal/{_moment_id(journal)}/{_count(n, 8)}.{_oid(oid)}"


def pin_key(system: str, pin: str, n: int, oid: str) -> str:
    """Part `n` of the versions that a pin keeps."""
    return f"{cluster_prefix(system)}pin/{_moment_id(pin)}/{_count(n, 8)}.{_oid(oid)}"


def _bucket(bucket: str) -> str:
    if not is_bucket_name(bucket):
        raise ValueError(f"{bucket!r} is not a bucket's name")
    return f"{BUCKETS_PREFIX}{bucket}/"


def _moment_id(text: str) -> str:
    if not is_backup_id(text):
        raise ValueError(f"{text!r} is not of the form 20261122T143206Z-1f2e3d4c")
    return text
