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

from typing import ClassVar


class WalarchiverError(Exception):
    """Something went wrong that the user should know about."""

    code: ClassVar[str] = "WA-ERROR"
    exit_status: ClassVar[int] = 1
    hint: ClassVar[str] = "Look at the log of `walarchiver serve` for the lines before this one."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = hint if hint is not None else type(self).hint


# --- the request is wrong ------------------------------------------------------------------


class UsageError(WalarchiverError):
    """The command line or request asks for something that does not exist or does not fit."""

    code = "WA-USAGE"
    exit_status = 2
    hint = "See `walarchiver COMMAND --help`."


class ConfigError(UsageError):
    """The configuration file has faults; all of them are listed and nothing was started."""

    code = "WA-CONFIG"
    hint = "Correct the lines named and run `walarchiver config validate`."


class UnknownCode(UsageError):
    """`walarchiver explain` was asked about a code that no release ever printed."""

    code = "WA-UNKNOWN-CODE"
    hint = "Run `walarchiver explain` without a code for the list."


class TimeNotUnderstood(UsageError):
    """The text after --at cannot be read as exactly one instant or position."""

    code = "WA-WHEN"
    hint = (
        "Write a time with its zone, for example 2026-11-22T14:32:06Z or '2026-11-22 14:32:06 Europe/Berlin'."
    )


class TimeWithoutZone(TimeNotUnderstood):
    """A time without a zone means different instants on different machines, so it is refused."""

    code = "WA-WHEN-ZONE"
    hint = "Add Z or a zone name to the time, or set `timezone` in the [server] section."


class TimeAmbiguous(TimeNotUnderstood):
    """This local time happened twice or never, because the clocks were changed in that hour."""

    code = "WA-WHEN-DST"
    hint = "Write the time in UTC, or with its numeric offset."


class TimeInFuture(TimeNotUnderstood):
    """The asked moment has not happened yet."""

    code = "WA-WHEN-FUTURE"
    hint = "Use --at latest for the newest restorable state."


class TargetDirectoryInUse(UsageError):
    """The directory to restore into is not empty, or a server runs in it; nothing was written."""

    code = "WA-TARGET-DIR"
    hint = "Name a directory that does not exist yet or is empty."


# --- what may pass ---------------------------------------------------------------------------


class Transient(WalarchiverError):
    """The outcome is open or may change by itself; asking again later is right."""

    code = "WA-TRANSIENT"
    hint = "Try again; if it stays, look at the storage and the network."


class StoreUnavailable(Transient):
    """Object storage did not answer, or answered with an error that may pass."""

    code = "WA-STORE-UNAVAILABLE"
    hint = "Is the endpoint reachable from this host? Run `walarchiver s3 probe`."


class DeadlineExceeded(Transient):
    """The work did not end inside its deadline; nothing was acknowledged."""

    code = "WA-DEADLINE"
    hint = "PostgreSQL offers the file again by itself. Is the storage slow?"


class ServerUnreachable(Transient):
    """The walarchiver server did not answer on its socket."""

    code = "WA-SERVER"
    hint = "Is `walarchiver serve` running, and is the socket path the same on both sides?"


class ShuttingDown(Transient):
    """The server is draining and takes no new work; nothing was acknowledged."""

    code = "WA-DRAINING"
    hint = "PostgreSQL offers the file again by itself once the server is back."


class CallerGone(Transient):
    """The caller closed its connection before the answer; the work for it was stopped."""

    code = "WA-CALLER-GONE"
    hint = "Nothing to do: whoever still needs the file asks again."


class LedgerContended(Transient):
    """Other writers kept winning the next place in the ledger."""

    code = "WA-LEDGER-BUSY"
    hint = "Are several hosts archiving the same cluster? See the alarm log."


class DatabaseUnavailable(Transient):
    """PostgreSQL could not be asked."""

    code = "WA-DATABASE"
    hint = "Is the server up, and does `dsn` in the configuration reach it as a role with REPLICATION?"


class CatalogUnavailable(Transient):
    """The catalog, a cache of the ledger in the state folder, could not be read or written."""

    code = "WA-CATALOG"
    hint = "Is the state folder full or read-only? The catalog may be removed; it is made again."


# --- refused: nothing was changed -------------------------------------------------------------


class Refused(WalarchiverError):
    """The input cannot be accepted; nothing was changed."""

    code = "WA-REFUSED"


class StoreDenied(Refused):
    """Object storage refused these credentials or does not know the bucket."""

    code = "WA-STORE-DENIED"
    hint = "Check the credentials, the bucket name and the policy; run `walarchiver s3 probe`."


class StoreMisbehaves(Refused):
    """The store does not do what the repository format needs of it."""

    code = "WA-STORE-MISBEHAVES"
    hint = "Run `walarchiver s3 probe` to see which property is missing."


class KeyTaken(Refused):
    """The object name exists already; nothing was overwritten."""

    code = "WA-KEY-TAKEN"
    hint = "Names are written once; another process may have been faster."


class NotAWalFile(Refused):
    """The name is not one of the four kinds of WAL file, or the path lies outside pg_wal."""

    code = "WA-NAME"
    hint = (
        "archive_command must be `walarchiver-hook push %p`, restore_command `walarchiver-hook fetch %f %p`."
    )


class CorruptSegment(Refused):
    """The bytes are not a whole WAL file of that name: wrong size, header or address."""

    code = "WA-SEGMENT-CORRUPT"
    hint = "Look at the file in pg_wal and at the disk below it; take a new base backup once it is explained."


class WrongCluster(Refused):
    """The file belongs to another PostgreSQL cluster than the one this name stands for."""

    code = "WA-WRONG-CLUSTER"
    hint = "Was this data directory cloned or re-initialised? Give it a cluster section of its own."


class SegmentConflict(Refused):
    """Another content is already archived under this name; the archive keeps the first one."""

    code = "WA-DIVERGENCE"
    hint = "Do two servers archive the same cluster, for example a clone started without standby.signal?"


class NoRepository(Refused):
    """There is no walarchiver repository at this place."""

    code = "WA-NO-REPOSITORY"
    exit_status = 10
    hint = "Run `walarchiver keys init`, or correct `url` in the [repository] section."


class RepositoryExists(Refused):
    """A repository is already there; it is never initialised twice."""

    code = "WA-REPOSITORY-EXISTS"
    hint = "Choose another url, or use the repository that is there."


class UnknownCluster(Refused):
    """The repository or the configuration has no cluster of this name."""

    code = "WA-CLUSTER"
    exit_status = 2
    hint = "Name a cluster with --cluster; `walarchiver config show` lists them."


class Locked(Refused):
    """Another process holds the lock for this work."""

    code = "WA-LOCKED"
    exit_status = 11
    hint = "Wait for it to end, or stop it."


class KeyCannotOpen(Refused):
    """No key at hand opens this object."""

    code = "WA-KEY"
    exit_status = 12
    hint = "Name a custodian's key file as `identity` of the repository."


class NotPermitted(Refused):
    """The caller on the socket is not one of the users that may do this."""

    code = "WA-PEER"
    hint = "The hook must run as the owner of the data directory, as root, or as the server's own user."


class BackupFailed(Refused):
    """The base backup did not complete; what was uploaded is not a backup and will be collected."""

    code = "WA-BACKUP"
    hint = "The message of PostgreSQL above says why; run `walarchiver backup` again."


class BinariesMissing(Refused):
    """A server program (PostgreSQL of the right major version, or weed) is not on this host."""

    code = "WA-BINARIES"
    hint = "Install PostgreSQL of that major version, or set WALARCHIVER_PG<major>_BIN (WALARCHIVER_WEED)."


class RestoreFailed(Refused):
    """The restored cluster is not what was asked; do not use it."""

    code = "WA-RESTORE"
    hint = "Read the server's log in the target directory; the repository was not changed."


# --- bytes that do not verify ------------------------------------------------------------------


class Untrusted(WalarchiverError):
    """Something in the repository does not verify; it is not used."""

    code = "WA-UNTRUSTED"
    exit_status = 15
    hint = "Keep the repository as it is and find out who wrote there; other copies of the object may verify."


class ObjectDamaged(Untrusted):
    """A stored object does not have the bytes that the ledger recorded, or does not open."""

    code = "WA-OBJECT-DAMAGED"


class ObjectMissing(Untrusted):
    """The ledger records an object that the store does not have."""

    code = "WA-OBJECT-MISSING"
    hint = "Was something deleted in the bucket? A versioned bucket may still hold it."


class ObjectMisplaced(ObjectDamaged):
    """A stored object opens, but it is another one than its place in the ledger says."""

    code = "WA-OBJECT-MISPLACED"


class BadSignature(Untrusted):
    """A signature is not by the key that it has to be by."""

    code = "WA-SIGNATURE"


class LedgerBroken(Untrusted):
    """The ledger is not one unbroken, signed chain."""

    code = "WA-LEDGER"


class KeyringBroken(Untrusted):
    """The keyring does not lead from the pinned root key to the signer."""

    code = "WA-KEYRING"
    hint = "Does `root` in the [repository] section belong to this repository?"


class MalformedObject(Untrusted):
    """Bytes that should follow the repository format do not."""

    code = "WA-FORMAT"


# --- the asked moment ---------------------------------------------------------------------------


class NotReachable(WalarchiverError):
    """The asked moment cannot be restored."""

    code = "WA-UNREACHABLE"
    exit_status = 13
    hint = "The answer names the nearest moments that can be restored."


class TargetInGap(NotReachable):
    """WAL is missing between every usable base backup and the asked moment."""

    code = "WA-GAP"
    exit_status = 14


# --- fetch ---------------------------------------------------------------------------------------


class ProvenAbsent(WalarchiverError):
    """The file is proven not to be in the archive: the true end, not a failure."""

    code = "WA-ABSENT"
    exit_status = 1
    hint = "Nothing to do: PostgreSQL asks for files past the end of the archive as a matter of course."


class FetchInDoubt(WalarchiverError):
    """The file could not be had and could not be proven absent, so recovery must stop and wait."""

    code = "WA-DOUBT"
    exit_status = 1
    hint = "Repair what the message names and start PostgreSQL again: it goes on where it stopped."


def all_errors() -> list[type[WalarchiverError]]:
    """Every error class, in code order; the source of `explain` and of docs/errors.md."""
    found: list[type[WalarchiverError]] = [WalarchiverError]
    for cls in found:  # the list grows while we walk it
        found.extend(cls.__subclasses__())
    return sorted(found, key=lambda cls: cls.code)
