"""Refused: trying again cannot help, and nothing was changed."""

from __future__ import annotations

from walarchiver.errors.base import WalarchiverError


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


class FileMissing(Refused):
    """The file that was to be archived is not there."""

    code = "WA-FILE-MISSING"
    hint = (
        "Who removes files from pg_wal? PostgreSQL keeps what it offers. If nobody has the file, its WAL is "
        "lost: take a new base backup."
    )


class FileForbidden(Refused):
    """The file that was to be archived may not be read by the server's user."""

    code = "WA-FILE-DENIED"
    hint = "Run `walarchiver serve` as the owner of the data directory, and look at the rights of pg_wal."


class NotARegularFile(CorruptSegment):
    """What was offered is a folder, a pipe or a device."""

    code = "WA-FILE-KIND"
    hint = "Who put that into pg_wal? Move it away; PostgreSQL offers its own files again by itself."


class CorruptHistory(CorruptSegment):
    """A timeline history is empty, cut off, too long, or names an ancestry that cannot be."""

    code = "WA-HISTORY-CORRUPT"
    hint = (
        "Do not remove it: PostgreSQL would use its timeline's number again. Compare it with the copy on the "
        "host that promoted."
    )


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


class KeyMissing(KeyCannotOpen):
    """No key is configured here, or its file is not there."""

    code = "WA-KEY-MISSING"
    hint = "Bring a custodian's key file to this host and name it as `identity` of the repository."


class WriterRevoked(Refused):
    """This host's signing key is not, or no longer, a writer of the cluster in the newest keyring."""

    code = "WA-REVOKED"
    hint = (
        "An administrator adds its public form with `walarchiver keys member add`, or `signing_key` names a "
        "key that is a member. A running server looks again by itself."
    )


class LastKeyHolder(Refused):
    """The change would leave a repository or a cluster without a custodian, or without any writer."""

    code = "WA-LAST-KEY"
    hint = "Add the one who takes over first: `walarchiver keys recipient add` or `keys member add`."


class KeyringChanged(Refused):
    """Somebody else changed the keyring meanwhile; what was asked was not done."""

    code = "WA-KEYRING-CHANGED"
    hint = "Look at `walarchiver keys list`, and give the command again if the change is still wanted."


class NotPermitted(Refused):
    """The caller on the socket is not one of the users that may do this."""

    code = "WA-PEER"
    hint = "The hook must run as the owner of the data directory, as root, or as the server's own user."


class ServerInRecovery(Refused):
    """The server is a standby; what was asked needs one that writes WAL."""

    code = "WA-STANDBY"
    hint = "Let `dsn` reach the primary, or run the command on its host."


class BackupFailed(Refused):
    """The base backup did not complete; what was uploaded is not a backup and will be collected."""

    code = "WA-BACKUP"
    hint = "The message of PostgreSQL above says why; run `walarchiver backup` again."


class BackupConnectionLost(BackupFailed):
    """The connection that carried a base backup broke; what was uploaded is no backup."""

    code = "WA-BACKUP-LOST"
    hint = (
        "Look into PostgreSQL's log for why (a restart, wal_sender_timeout, the network); then run "
        "`walarchiver backup` again."
    )


class BackupStalled(BackupFailed):
    """The store was out for longer than a base backup may wait for it."""

    code = "WA-BACKUP-STALLED"
    hint = "Once the store answers, run `walarchiver backup` again; `backup.outage` says how long it waits."


class PageChecksumFailed(BackupFailed):
    """PostgreSQL found pages with wrong checksums while it sent the base backup: the cluster is damaged."""

    code = "WA-PAGE-CHECKSUM"
    hint = (
        "Look at the named file's relation (pg_filenode_relation) and at the disk; earlier backups are not "
        "touched. Restore it elsewhere from one of them; a new backup works once the pages are sound."
    )


class IncrementalUnavailable(BackupFailed):
    """No incremental backup can be taken here now; a full one can."""

    code = "WA-BACKUP-INCREMENTAL"
    hint = "Run `walarchiver backup`, or `--incremental auto`, which takes a full one where need be."


class BackupChainBroken(Refused):
    """An incremental base backup lacks one that it builds on."""

    code = "WA-BACKUP-CHAIN"
    hint = "Choose an earlier base backup (`walarchiver backups`), and take a full one soon."


class BinariesMissing(Refused):
    """A server program (PostgreSQL of the right major version, or weed) is not on this host."""

    code = "WA-BINARIES"
    hint = "Install PostgreSQL of that major version, or set WALARCHIVER_PG<major>_BIN (WALARCHIVER_WEED)."


class RestoreFailed(Refused):
    """The restored cluster is not what was asked; do not use it."""

    code = "WA-RESTORE"
    hint = (
        "Do not use the target directory; the repository was not changed. If PostgreSQL was started, its log "
        "is DIR.walarchiver/instance/server.log."
    )


class TargetDiskFull(RestoreFailed):
    """The file system to restore into has no room for the cluster."""

    code = "WA-RESTORE-DISK"
    hint = "Make room, or name a directory on another file system."
