"""Every configuration key, declared once: type, default, meaning, example.

Rules:
- One frozen dataclass per section. The reader, the reference file, `config show` and their tests are
  all derived from these declarations, so a key exists everywhere or nowhere.
- A field's name is its key in the file, unless its declaration says otherwise.
- Secrets are never values: keys name files, commands or systemd credentials.
- Two clusters and one repository need a dozen lines; to read and restore, four are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from walarchiver.settings_kinds import (
    ADDRESS,
    BOOLEAN,
    COMMAND,
    DSN,
    DURATION,
    PATH,
    PLACE,
    SECRET_FILE,
    SIZE,
    TEXT,
    TEXTS,
    ZONE,
    Address,
    Kind,
    Value,
    choice,
    count,
    url_of,
)


def key(kind: Kind[Value], doc: str, *, example: str = "", name: str = "") -> Mapping[str, object]:
    """The declaration of one key; `example` is TOML text and stands in the reference file."""
    return {"kind": kind, "doc": doc, "example": example, "name": name}


_ADDRESSING = choice("auto", "path", "virtual")
_CHECKSUM = choice("auto", "when_supported", "when_required")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What `walarchiver serve` listens on and how much it takes."""

    socket: Path = field(
        default=Path("/run/walarchiver/walarchiver.sock"),
        metadata=key(PATH, "Unix socket for the hook and the command line; the caller's user is checked."),
    )
    users: tuple[str, ...] = field(
        default=(),
        metadata=key(
            TEXTS,
            "Users (names or numbers) that may call besides root, the server's own user and the "
            "owners of the data directories.",
            example='["postgres"]',
        ),
    )
    listen: Address | None = field(
        default=None,
        metadata=key(ADDRESS, "Optional: metrics and health over HTTP.", example='"127.0.0.1:9187"'),
    )
    state: Path = field(
        default=Path("/var/lib/walarchiver"),
        metadata=key(PATH, "Folder for the catalog and other caches; losing it loses nothing."),
    )
    workers: int = field(
        default=2, metadata=key(count(1, 256), "Cores to use for compressing, sealing and sending.")
    )
    memory: int = field(
        default=256 * 2**20, metadata=key(SIZE, "Upper bound for WAL and backup bytes held in memory.")
    )
    timezone: str | None = field(
        default=None,
        metadata=key(
            ZONE, "Zone of times given without one; unset, such times are refused.", example='"Europe/Berlin"'
        ),
    )
    push_deadline: timedelta = field(
        default=timedelta(seconds=110),
        metadata=key(DURATION, "A WAL file not durable by then is answered with a failure."),
    )
    fetch_deadline: timedelta = field(
        default=timedelta(seconds=590),
        metadata=key(DURATION, 'A WAL file not in place by then is answered with "cannot tell".'),
    )
    drain: timedelta = field(
        default=timedelta(seconds=8),
        metadata=key(
            DURATION,
            "How long work in progress may take to end after SIGTERM; it ends a second later.",
        ),
    )
    connections: int = field(
        default=64, metadata=key(count(4, 4096), "Callers served at once; more wait their turn.")
    )
    log_level: str = field(
        default="info",
        metadata=key(choice("debug", "info", "warning", "error"), "Least weighty events logged."),
    )
    log_format: str = field(default="text", metadata=key(choice("text", "json"), "Form of a log line."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """A place where everything is kept, and the keys for it."""

    url: str = field(
        metadata=key(
            url_of("s3", "file"),
            "Where: s3://BUCKET/PREFIX or file:///PATH.",
            example='"s3://backups/walarchiver"',
        ),
    )
    endpoint: str | None = field(
        default=None,
        metadata=key(
            url_of("https", "http"),
            "S3 server; unset means the provider's own.",
            example='"https://s3.example.org"',
        ),
    )
    region: str | None = field(
        default=None, metadata=key(TEXT, "S3 region, if the store wants one.", example='"us-east-1"')
    )
    addressing: str = field(
        default="auto", metadata=key(_ADDRESSING, "Bucket in the path or in the host name; auto finds out.")
    )
    checksum_mode: str = field(
        default="auto", metadata=key(_CHECKSUM, "When to send S3 checksums; auto finds out.")
    )
    ca_file: Path | None = field(
        default=None,
        metadata=key(
            PATH,
            "Certificates to trust instead of the host's own; TLS is always verified.",
            example='"/etc/ssl/store-ca.pem"',
        ),
    )
    allow_http: bool = field(
        default=False,
        metadata=key(BOOLEAN, "Permit an endpoint without TLS on another host; loopback needs none."),
    )
    credentials_file: Path | None = field(
        default=None,
        metadata=key(
            SECRET_FILE,
            "TOML file with access_key_id, secret_access_key and optionally session_token. With neither this "
            "nor a command the platform's role is used.",
            example='"/etc/walarchiver/s3.toml"',
        ),
    )
    credentials_command: tuple[str, ...] | None = field(
        default=None,
        repr=False,
        metadata=key(
            COMMAND,
            "Program that prints credentials as JSON (AWS credential_process).",
            example='["/usr/local/bin/s3-credentials"]',
        ),
    )
    root: str | None = field(
        default=None,
        metadata=key(
            TEXT,
            "Pinned root verification key, printed by `keys init`; may be left out where `identity` is "
            "set, as a custodian's key file names it too.",
            example='"wa-root1..."',
        ),
    )
    signing_key: Path | None = field(
        default=None,
        metadata=key(
            SECRET_FILE,
            "This host's writer key; needed to archive and to back up.",
            example='"/etc/walarchiver/writer.key"',
        ),
    )
    identity: Path | None = field(
        default=None,
        metadata=key(
            SECRET_FILE,
            "A custodian's key; only on hosts that must read (restore, standby, drill).",
            example='"/etc/walarchiver/custodian.key"',
        ),
    )
    master_key_file: Path | None = field(
        default=None,
        metadata=key(
            SECRET_FILE,
            "The symmetric key of a repository made with --master-key.",
            example='"credential:walarchiver-master"',
        ),
    )
    master_key_command: tuple[str, ...] | None = field(
        default=None,
        repr=False,
        metadata=key(COMMAND, "Program that prints that key.", example='["/usr/local/bin/master-key"]'),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    """How base backups of one cluster are taken."""

    max_rate: int | None = field(
        default=None, metadata=key(SIZE, "Bytes a second that PostgreSQL may send.", example='"100MiB"')
    )
    chain: int = field(
        default=7, metadata=key(count(1, 1000), "Backups in a chain of incremental ones; then a full one.")
    )
    outage: timedelta = field(
        default=timedelta(hours=1), metadata=key(DURATION, "How long a backup waits for a store that is out.")
    )
    tries: int = field(
        default=3, metadata=key(count(1, 100), "Backups begun, in all, when the server's connection breaks.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """What to keep of one cluster."""

    window: timedelta = field(
        default=timedelta(days=35), metadata=key(DURATION, "Every second this far back can be restored.")
    )
    daily: timedelta = field(
        default=timedelta(0), metadata=key(DURATION, "One base backup a day this far back.", example='"30d"')
    )
    weekly: timedelta = field(
        default=timedelta(0), metadata=key(DURATION, "One a week this far back.", example='"52w"')
    )
    monthly: timedelta = field(
        default=timedelta(0), metadata=key(DURATION, "One a month this far back.", example='"7y"')
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """The versioned bucket with the application's files."""

    url: str = field(metadata=key(url_of("s3"), "The evidence bucket.", example='"s3://evidence"'))
    endpoint: str | None = field(
        default=None,
        metadata=key(url_of("https", "http"), "As in [repository].", example='"https://s3.example.org"'),
    )
    region: str | None = field(default=None, metadata=key(TEXT, "As in [repository].", example='"us-east-1"'))
    addressing: str = field(default="auto", metadata=key(_ADDRESSING, "As in [repository]."))
    checksum_mode: str = field(default="auto", metadata=key(_CHECKSUM, "As in [repository]."))
    ca_file: Path | None = field(
        default=None, metadata=key(PATH, "As in [repository].", example='"/etc/ssl/store-ca.pem"')
    )
    allow_http: bool = field(default=False, metadata=key(BOOLEAN, "As in [repository]."))
    credentials_file: Path | None = field(
        default=None,
        metadata=key(SECRET_FILE, "As in [repository].", example='"/etc/walarchiver/evidence.toml"'),
    )
    credentials_command: tuple[str, ...] | None = field(
        default=None,
        repr=False,
        metadata=key(COMMAND, "As in [repository].", example='["/usr/local/bin/s3-credentials"]'),
    )
    references: str | None = field(
        default=None,
        metadata=key(
            TEXT,
            "Query for the object keys (and digests) that the database points at.",
            example='"SELECT storage_key, sha256 FROM evidence"',
        ),
    )
    database: str | None = field(
        default=None,
        metadata=key(TEXT, "Database that the query runs in; default: that of `dsn`.", example='"app"'),
    )
    app_lag: timedelta = field(
        default=timedelta(seconds=60),
        metadata=key(
            DURATION,
            "How long the application may take between storing (or deleting) an object and committing the "
            "row that refers to it: that far from the asked moment a reference is still resolved.",
        ),
    )
    scan: timedelta = field(
        default=timedelta(hours=1),
        metadata=key(
            DURATION,
            "How often the daemon lists the whole bucket; the window for joint restores ends at the last "
            "time. 0s: never, `bucket scan` is run by somebody else.",
        ),
    )
    page_entries: int = field(
        default=1000,
        metadata=key(
            count(1, 1000),
            "Entries asked for per page of a listing; fewer only where a store fails with more.",
        ),
    )
    listings: int = field(
        default=4,
        metadata=key(count(1, 64), "Parts of the bucket that `bucket scan` lists at once."),
    )
    copy_part: int = field(
        default=512 * 2**20,
        metadata=key(
            SIZE, "Part size for copies of objects above 5 GB; larger ones still fit into 10,000 parts."
        ),
    )
    multipart_time: str = field(
        default="auto",
        metadata=key(
            choice("auto", "initiation", "completion"),
            "Which time the store lists for uploads in parts: that of their begin (Amazon S3) or of their "
            "end (SeaweedFS). auto says begin at Amazon and elsewhere takes it as unknown: near the asked "
            "moment such versions are called uncertain.",
        ),
    )
    events: str | None = field(
        default=None,
        metadata=key(
            url_of("https", "http", "file"),
            "Where the bucket's change notifications come in: the URL of an SQS queue, or file:///FOLDER "
            "with files of JSON lines. They say what to list again sooner; full scans stay needed.",
            example='"https://sqs.eu-central-1.amazonaws.com/123456789012/evidence"',
        ),
    )
    copies: str | None = field(
        default=None,
        metadata=key(
            url_of("s3"),
            "Backup bucket where `bucket pin` keeps a copy of each content that this bucket may lose.",
            example='"s3://evidence-kept"',
        ),
    )
    copies_endpoint: str | None = field(
        default=None,
        metadata=key(
            url_of("https", "http"),
            "How to reach it, where that differs from this bucket.",
            example='"https://s3.elsewhere.example.org"',
        ),
    )
    copies_credentials_file: Path | None = field(
        default=None,
        metadata=key(SECRET_FILE, "And with which keys.", example='"/etc/walarchiver/evidence-kept.toml"'),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """One PostgreSQL cluster; with only `repository` set it can be read and restored."""

    dsn: str | None = field(
        default=None,
        metadata=key(
            DSN,
            "How to reach the server, as a role with REPLICATION; passwords belong into a passfile.",
            example='"host=/var/run/postgresql dbname=postgres"',
        ),
    )
    data_directory: Path | None = field(
        default=None,
        metadata=key(PATH, "Where pg_wal lies; needed to archive.", example='"/var/lib/postgresql/15/main"'),
    )
    repositories: tuple[str, ...] = field(
        default=(),
        metadata=key(
            TEXTS,
            "Name of the repository, or a list of them; may be left out when there is only one.",
            name="repository",
            example='"main"',
        ),
    )
    checkpoints: str | None = field(
        default=None,
        metadata=key(
            PLACE,
            "Second place for an hourly checkpoint, which shows later that the ledger's newest entries were "
            "not cut off: file:///PATH, or a [repository] section of which url and credentials count.",
            example='"file:///mnt/elsewhere/checkpoints"',
        ),
    )
    fetch_spool: Path | None = field(
        default=None,
        metadata=key(
            PATH,
            "Folder for WAL fetched ahead; default: beside the data directory, on its file system.",
            example='"/var/lib/postgresql/15/walarchiver-spool"',
        ),
    )
    backup: BackupSettings = field(default_factory=BackupSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    bucket: BucketSettings | None = None
