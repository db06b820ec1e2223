"""Every failure walarchiver can report, with a stable code and the next step.

The tree (kinds are chosen by what the caller does next):

    WalarchiverError                what the user sees: code, message with the values, hint
    ├── UsageError                  the request is wrong: change it                     exit 2
    │   ├── ConfigError             the configuration file is wrong
    │   ├── TimeNotUnderstood       --at could not be read as one instant
    │   └── ...
    ├── Transient                   may pass: retried inside a budget                   exit 1
    │   └── StoreUnavailable
    ├── Refused                     trying again cannot help, nothing was changed       exit 1
    │   ├── SegmentConflict, WrongCluster, NotAWalFile, CorruptSegment, ...
    ├── Untrusted                   bytes in the repository do not verify               exit 15
    └── NotReachable                the asked moment cannot be restored                 exit 13/14

Rules:
- Codes are stable for ever; a code is never reused for another fact.
- The class docstring is the fact that `walarchiver explain CODE` prints; `hint` is the next act.
- Messages are lower-case, carry the values, have no final stop. Hints are sentences or questions.
- `exit_status` is the program's exit status (product contract), not the hook's: see `hook.py`.
"""

from __future__ import annotations

from walarchiver.errors.asking import (
    BeforeFirstBackup,
    ConfigError,
    NotProven,
    NotReachable,
    ServerInTarget,
    SeveralTargets,
    TargetDirectoryInUse,
    TargetInGap,
    TimeAmbiguous,
    TimeInFuture,
    TimeNotUnderstood,
    TimeWithoutZone,
    UnknownCode,
    UnknownTarget,
    UsageError,
    WrongBranch,
)
from walarchiver.errors.base import WalarchiverError
from walarchiver.errors.bucket import (
    BucketChanged,
    BucketNotVersioned,
    BucketScanFailed,
    ClocksApart,
    IndexForeign,
    IndexUnavailable,
    ListingIncomplete,
    NoBucket,
    VersionUnreadable,
)
from walarchiver.errors.bucketrestoring import (
    BucketIndexStale,
    BucketRestoreFailed,
    BucketVersionsLost,
    BucketWindowOpen,
    Inconsistent,
    PinIncomplete,
    PinNotKept,
)
from walarchiver.errors.delta import DeltaDoubtful, DeltaForeign, DeltaWalUnarchived, TargetLocked
from walarchiver.errors.doubting import (
    BadSignature,
    FetchInDoubt,
    KeyringBroken,
    LedgerBroken,
    LedgerRewound,
    MalformedObject,
    ObjectDamaged,
    ObjectMisplaced,
    ObjectMissing,
    ProvenAbsent,
    Untrusted,
)
from walarchiver.errors.finding import FindInGap, TableNotListed
from walarchiver.errors.passing import (
    CallerGone,
    CatalogUnavailable,
    DatabaseUnavailable,
    DeadlineExceeded,
    EpochOutdated,
    Interrupted,
    LedgerContended,
    SegmentChanged,
    ServerUnreachable,
    ShuttingDown,
    SocketUnusable,
    StoreUnavailable,
    TooManyCallers,
    Transient,
)
from walarchiver.errors.refusing import (
    BackupChainBroken,
    BackupConnectionLost,
    BackupFailed,
    BackupStalled,
    BinariesMissing,
    CorruptHistory,
    CorruptSegment,
    FileForbidden,
    FileMissing,
    IncrementalUnavailable,
    KeyCannotOpen,
    KeyMissing,
    KeyringChanged,
    KeyTaken,
    LastKeyHolder,
    Locked,
    NoRepository,
    NotARegularFile,
    NotAWalFile,
    NotPermitted,
    PageChecksumFailed,
    Refused,
    RepositoryExists,
    RestoreFailed,
    SegmentConflict,
    ServerInRecovery,
    StoreDenied,
    StoreMisbehaves,
    TargetDiskFull,
    UnknownCluster,
    WriterRevoked,
    WrongCluster,
)
from walarchiver.errors.rescuing import (
    RescueFailed,
    SchemaTaken,
    StatementFailed,
    ThrowawayFailed,
    UnknownTable,
)

__all__ = [
    "BackupChainBroken",
    "BackupConnectionLost",
    "BackupFailed",
    "BackupStalled",
    "BadSignature",
    "BeforeFirstBackup",
    "BinariesMissing",
    "BucketChanged",
    "BucketIndexStale",
    "BucketNotVersioned",
    "BucketRestoreFailed",
    "BucketScanFailed",
    "BucketVersionsLost",
    "BucketWindowOpen",
    "CallerGone",
    "CatalogUnavailable",
    "ClocksApart",
    "ConfigError",
    "CorruptHistory",
    "CorruptSegment",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "DeltaDoubtful",
    "DeltaForeign",
    "DeltaWalUnarchived",
    "EpochOutdated",
    "FetchInDoubt",
    "FileForbidden",
    "FileMissing",
    "FindInGap",
    "Inconsistent",
    "IncrementalUnavailable",
    "IndexForeign",
    "IndexUnavailable",
    "Interrupted",
    "KeyCannotOpen",
    "KeyMissing",
    "KeyTaken",
    "KeyringBroken",
    "KeyringChanged",
    "LastKeyHolder",
    "LedgerBroken",
    "LedgerContended",
    "LedgerRewound",
    "ListingIncomplete",
    "Locked",
    "MalformedObject",
    "NoBucket",
    "NoRepository",
    "NotARegularFile",
    "NotAWalFile",
    "NotPermitted",
    "NotProven",
    "NotReachable",
    "ObjectDamaged",
    "ObjectMisplaced",
    "ObjectMissing",
    "PageChecksumFailed",
    "PinIncomplete",
    "PinNotKept",
    "ProvenAbsent",
    "Refused",
    "RepositoryExists",
    "RescueFailed",
    "RestoreFailed",
    "SchemaTaken",
    "SegmentChanged",
    "SegmentConflict",
    "ServerInRecovery",
    "ServerInTarget",
    "ServerUnreachable",
    "SeveralTargets",
    "ShuttingDown",
    "SocketUnusable",
    "StatementFailed",
    "StoreDenied",
    "StoreMisbehaves",
    "StoreUnavailable",
    "TableNotListed",
    "TargetDirectoryInUse",
    "TargetDiskFull",
    "TargetInGap",
    "TargetLocked",
    "ThrowawayFailed",
    "TimeAmbiguous",
    "TimeInFuture",
    "TimeNotUnderstood",
    "TimeWithoutZone",
    "TooManyCallers",
    "Transient",
    "UnknownCluster",
    "UnknownCode",
    "UnknownTable",
    "UnknownTarget",
    "Untrusted",
    "UsageError",
    "VersionUnreadable",
    "WalarchiverError",
    "WriterRevoked",
    "WrongBranch",
    "WrongCluster",
    "all_errors",
]


def all_errors() -> list[type[WalarchiverError]]:
    """Every error class, in code order; the source of `explain` and of docs/errors.md."""
    found: list[type[WalarchiverError]] = [WalarchiverError]
    for cls in found:  # the list grows while we walk it
        found.extend(cls.__subclasses__())
    return sorted(found, key=lambda cls: cls.code)
