"""The end-to-end proof: a WAL segment forced now comes to rest in every repository and opens again.

Rules:
- Each condition is looked at even when another one failed, as far as that makes sense.
- The very segment that was forced is waited for, by its name, in the ledger read from the store.
- What could not be proven here (no key, no data directory, a standby) is said, never counted as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from blake3 import blake3

from restore.plainfile import write_plain
from walarchiver.assembly import Archive, Host
from walarchiver.catalog import FileRecord
from walarchiver.errors import ServerInRecovery, StoreDenied, TargetInGap, Untrusted, WalarchiverError
from walarchiver.operate.archivesettings import archive_settings
from walarchiver.operate.daemon import ask_server
from walarchiver.operate.findings import Finding, Level, fail, looked_at, met, ok, warn
from walarchiver.operate.hooktrial import try_hook
from walarchiver.operate.waiting import open_part, wait_durable
from walarchiver.postgres.operating import (
    ServerCondition,
    Switched,
    archiver_stats,
    force_switch,
    server_condition,
)
from walarchiver.settings import ClusterSettings
from walarchiver.status import Status, status_of

_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How old the newest restorable second and the newest base backup may be."""

    restorable_warning: timedelta = timedelta(minutes=10)
    restorable_critical: timedelta = timedelta(hours=1)
    backup_warning: timedelta = timedelta(days=8)
    backup_critical: timedelta = timedelta(days=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What to check, and the sinks for what happens meanwhile."""

    cluster: str
    wait_s: float
    thresholds: Thresholds
    progress: Callable[[str], None]
    prove_horizon: Callable[[], None]
    """Asks the daemon to record now how far the archive is proven."""


@dataclass(slots=True)
class CheckReport:
    """What was found; measures are None where nothing could be measured. Ages are seconds."""

    findings: list[Finding] = field(default_factory=list)
    segment: str | None = None
    archive_s: float | None = None
    restorable_age_s: float | None = None
    backup_age_s: float | None = None


def run_check(host: Host, request: CheckRequest) -> CheckReport:
    """Look at every condition; the findings in order."""
    return _Check(host, request).run()


class _Check:
    def __init__(self, host: Host, request: CheckRequest) -> None:
        self._host = host
        self._request = request
        self._section: ClusterSettings = host.settings.cluster(request.cluster)
        self._report = CheckReport()
        self._server: ServerCondition | None = None
        self._archives: dict[str, Archive] = {}
        self._switched: Switched | None = None

    def run(self) -> CheckReport:
        found = self._report.findings
        for name, look in (
            ("database", self._database),
            ("settings", self._settings),
            ("hook", self._hook),
            ("daemon", self._daemon),
            ("repository", self._repositories),
            ("switch", self._switch),
        ):
            found += looked_at(name, look)
        until_s = self._host.clock.monotonic_s() + self._request.wait_s
        for name, archive in self._archives.items():
            if self._switched is not None:
                found += looked_at(
                    f"durable {name}", partial(self._durable, name, archive, self._switched, until_s)
                )
        self._request.prove_horizon()
        for name, archive in self._archives.items():
            found += looked_at(f"archive {name}", partial(self._condition, name, archive))
        return self._report

    # --- the server --------------------------------------------------------------------------------

    def _database(self) -> Iterator[Finding]:
        if self._section.dsn is None:
            yield warn(
                "database",
                "not asked: the cluster has no `dsn`, so no WAL switch can be forced from here",
                "Set `dsn` in the [cluster] section, or run this on the host that archives.",
            )
            return
        server = self._server = server_condition(self._section.dsn)
        kind = "standby" if server.in_recovery else "primary"
        yield ok("database", f"PostgreSQL {server.version}, {kind}, system {server.system}")

    def _settings(self) -> Iterator[Finding]:
        if self._server is not None:
            yield from archive_settings(self._server.settings)

    def _hook(self) -> Iterator[Finding]:
        folder = self._section.data_directory
        if self._server is None:
            return
        command = self._server.settings.get("archive_command")
        if folder is None or command is None:
            yield warn(
                "hook",
                "not tried: "
                + ("no `data_directory` is set" if folder is None else "archive_command is hidden"),
                "Set `data_directory`, and let the role of `dsn` be a member of pg_monitor.",
            )
        else:
            yield try_hook(command, folder)

    def _daemon(self) -> Iterator[Finding]:
        path = self._host.settings.server.socket
        status, said = ask_server(path, "/readyz")
        if status == 200:
            yield ok("daemon", f"`walarchiver serve` answers on {path} and is ready")
        else:
            yield fail("daemon", f"`walarchiver serve` says: {said}", "Look at its log.")

    def _repositories(self) -> Iterator[Finding]:
        system = self._server.system if self._server is not None else None
        for name in self._section.repositories:
            yield from looked_at(f"repository {name}", partial(self._repository, name, system))

    def _repository(self, name: str, system: int | None) -> Iterator[Finding]:
        archive = self._archives[name] = open_part(self._host, self._request.cluster, name, system)
        entries = archive.ledger.state().next_seq
        yield ok(f"repository {name}", f"{entries} ledger entries verify in {archive.repository.store.url}")

    # --- the segment -------------------------------------------------------------------------------

    def _switch(self) -> Iterator[Finding]:
        if self._server is None or self._section.dsn is None:
            return
        try:
            self._switched = force_switch(self._section.dsn)
        except ServerInRecovery as error:
            yield met("switch", error, Level.WARN)
        else:
            self._report.segment = self._switched.name
            yield ok("switch", f"segment {self._switched.name} was completed just now")

    def _durable(self, name: str, archive: Archive, switched: Switched, until_s: float) -> Iterator[Finding]:
        segment, progress = switched.name, self._request.progress
        progress(f"check: waiting until {segment} is durable in repository {name}")
        durable = wait_durable(
            archive,
            segment,
            clock=self._host.clock,
            until_s=until_s,
            waiting=lambda seconds: progress(f"check: {segment} is not in {name} yet ({seconds:.0f} s)"),
        )
        if durable is None:
            yield fail(
                f"durable {name}",
                f"{segment} is not in the ledger after {self._request.wait_s:g} s; {self._archiver_says()}",
                "Read the server's log for lines of walarchiver-hook, and the log of `walarchiver serve`.",
            )
            return
        self._report.archive_s = max(durable.seconds, self._report.archive_s or 0.0)
        yield ok(f"durable {name}", f"{segment} is durable and in the ledger after {durable.seconds:.1f} s")
        yield from self._opened(name, archive, durable.record)

    def _archiver_says(self) -> str:
        assert self._section.dsn is not None
        try:
            stats = archiver_stats(self._section.dsn)
        except WalarchiverError as error:
            return error.message
        if stats.failing:
            return (
                f"PostgreSQL's last attempt failed, with {stats.last_failed} ({stats.failed} failures so far)"
            )
        return f"PostgreSQL archived {stats.last_archived or 'nothing'} last and reports no failure since"

    def _opened(self, name: str, archive: Archive, record: FileRecord) -> Iterator[Finding]:
        """Read the segment back: by key where one is at hand, else by hash; and beside the original."""
        if archive.repository.identities:
            with open(os.devnull, "wb") as nowhere:
                write_plain(archive.repository, archive.system, record, nowhere)
            yield ok(f"opened {name}", f"{record.name} opens with this host's identity and has its digest")
        else:
            yield ok(f"opened {name}", _read_back(archive, record))
        original = self._original_digest(record.name)
        if original is not None and original != record.digest:
            yield fail(
                f"original {name}",
                f"{record.name} in pg_wal has other bytes than what is recorded",
                "Do two servers archive this cluster? Compare pg_wal with the archive before anything else.",
                exit_status=Untrusted.exit_status,
            )
        elif original is not None:
            yield ok(f"original {name}", f"what is recorded is what {record.name} holds in pg_wal")

    def _original_digest(self, segment: str) -> str | None:
        """BLAKE3 of the file in pg_wal; None when it cannot be read here (or is recycled by now)."""
        folder = self._section.data_directory
        return None if folder is None else _digest_of(folder / "pg_wal" / segment)

    # --- the archive -------------------------------------------------------------------------------

    def _condition(self, name: str, archive: Archive) -> Iterator[Finding]:
        archive.ledger.refresh()
        status = status_of(archive, self._host.clock)
        yield self._restorable(name, status)
        yield self._backup(name, status)
        for gap in status.gaps:
            text = f"WAL is missing from {gap.first} to {gap.last}"
            if gap.behind is not None:
                yield ok(f"gap {name}", f"{text}; base backup {gap.behind} begins behind it")
                continue
            yield fail(
                f"gap {name}",
                f"{text}, and no base backup begins behind it",
                "Take a base backup now, so that moments from then on can be restored.",
                exit_status=TargetInGap.exit_status,
            )
        if status.void_entries:
            yield warn(
                f"ledger {name}",
                f"{len(status.void_entries)} void entries, the first is {status.void_entries[0]}",
                "Find out who wrote to the repository without a valid key.",
            )

    def _restorable(self, name: str, status: Status) -> Finding:
        limits = self._request.thresholds
        label = f"restorable {name}"
        if status.latest is None:
            return fail(
                label, f"no restorable second: {status.reason}", "Follow that, then look at `status`."
            )
        age_s = max(0.0, (status.now - status.latest) / 1e6)
        self._report.restorable_age_s = max(age_s, self._report.restorable_age_s or 0.0)
        text = f"the latest restorable second is {_ago(age_s)} old"
        hint = "`walarchiver status` says what holds it back."
        return _judged(label, age_s, limits.restorable_warning, limits.restorable_critical, text, hint)

    def _backup(self, name: str, status: Status) -> Finding:
        limits = self._request.thresholds
        label = f"backup {name}"
        if not status.backups:
            return fail(label, "there is no base backup", "Run `walarchiver backup`.")
        newest = max(status.backups, key=lambda backup: backup.stop_time)
        age_s = max(0.0, (status.now - newest.stop_time) / 1e6)
        self._report.backup_age_s = max(age_s, self._report.backup_age_s or 0.0)
        text = f"the newest base backup, {newest.backup}, is {_ago(age_s)} old"
        hint = "Run `walarchiver backup`, and let a timer do it."
        return _judged(label, age_s, limits.backup_warning, limits.backup_critical, text, hint)


def _read_back(archive: Archive, record: FileRecord) -> str:
    """Compare the stored bytes with their hash, where these credentials may read them.

    A writer's need not: those of deploy/policies read the ledger only, and that is no fault.
    """
    try:
        for stored in record.objects:
            archive.repository.stored_bytes(stored)
    except StoreDenied:
        return (
            f"{record.name} was not read back: these credentials may not read WAL, as is best for a writer; "
            "`check` or `verify` with a reader's proves its bytes"
        )
    return f"{record.name} came back with its hash; not opened, as no identity is configured here"


def _judged(
    name: str, age_s: float, warning: timedelta, critical: timedelta, text: str, hint: str
) -> Finding:
    if age_s >= critical.total_seconds():
        return fail(name, text, hint)
    if age_s >= warning.total_seconds():
        return warn(name, text, hint)
    return ok(name, text)


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _digest_of(path: Path) -> str | None:
    hasher = blake3()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)
    except OSError:
        return None
    return hasher.hexdigest()
