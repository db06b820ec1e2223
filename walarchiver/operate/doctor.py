"""Examines everything that archiving and restoring of one cluster depend on, and changes nothing of it.

Rules:
- Each part is examined on its own: what fails in one does not hide the others.
- Only the store's survey writes, one scratch object, which it removes where it may.
- Limits are named here; they are meant for warnings in time, not for alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from walarchiver.assembly import Archive, Host, kept_of
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import Untrusted
from walarchiver.operate.archivesettings import archive_settings
from walarchiver.operate.daemon import ask_server
from walarchiver.operate.doctorbucket import bucket_findings
from walarchiver.operate.doctorhost import (
    data_directory_findings,
    disk_findings,
    scan_finding,
    state_findings,
)
from walarchiver.operate.doctorkeys import key_findings
from walarchiver.operate.findings import Finding, fail, looked_at, ok, warn
from walarchiver.operate.hooktrial import hook_variant, try_hook
from walarchiver.operate.storeprobe import probe_store
from walarchiver.operate.waiting import open_part
from walarchiver.postgres.operating import ServerCondition, archiver_stats, clock_of, server_condition
from walarchiver.settings import ClusterSettings

SKEW_WARN_S = 2.0
SKEW_FAIL_S = 60.0
SLOT_BYTES_WARN = 1 << 30


@dataclass(slots=True)
class Examination:
    """What was found, and what was asked along the way (for the bundle)."""

    findings: list[Finding] = field(default_factory=list)
    server: ServerCondition | None = None


def examine(host: Host, cluster: str, progress: Callable[[str], None]) -> Examination:
    """Look at every part of one cluster's archiving."""
    return _Doctor(host, cluster, progress).run()


class _Doctor:
    def __init__(self, host: Host, cluster: str, progress: Callable[[str], None]) -> None:
        self._host = host
        self._cluster = cluster
        self._progress = progress
        self._section: ClusterSettings = host.settings.cluster(cluster)
        self._examination = Examination()
        self._archives: dict[str, Archive] = {}

    def run(self) -> Examination:
        parts: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("database", self._database),
            ("settings", self._settings),
            ("clock", self._clock),
            ("hook", self._hook),
            ("daemon", self._daemon),
            ("data directory", self._data_directory),
            ("disk", self._disk),
            ("state", lambda: state_findings(self._host.settings.server.state)),
            ("storage", self._storage),
            ("repository", self._repositories),
            ("bucket", lambda: bucket_findings(self._host, self._cluster, self._section)),
        )
        for name, look in parts:
            self._progress(f"doctor: {name}")
            self._examination.findings += looked_at(name, look)
        return self._examination

    # --- PostgreSQL --------------------------------------------------------------------------------

    def _database(self) -> Iterator[Finding]:
        if self._section.dsn is None:
            yield warn("database", "not asked: the cluster has no `dsn`", "Set `dsn` where the server runs.")
            return
        server = self._examination.server = server_condition(self._section.dsn)
        kind = "standby" if server.in_recovery else "primary"
        yield ok("database", f"PostgreSQL {server.version}, {kind}, system {server.system}")
        stats = archiver_stats(self._section.dsn)
        if stats.failing:
            yield fail(
                "archiver",
                f"PostgreSQL's last attempt to archive failed, with {stats.last_failed}",
                "Read the server's log for lines of walarchiver-hook, then the daemon's.",
            )
        else:
            yield ok("archiver", f"{stats.archived} files archived, last {stats.last_archived or 'none'}")
        yield from _rights(server)

    def _settings(self) -> Iterator[Finding]:
        server = self._examination.server
        if server is not None:
            yield from archive_settings(server.settings)
            yield from durability_settings(server)

    def _clock(self) -> Iterator[Finding]:
        if self._section.dsn is None:
            return
        before_us = self._host.clock.now_us()
        server_us = clock_of(self._section.dsn)
        after_us = self._host.clock.now_us()
        ahead_s = max(0, server_us - after_us, before_us - server_us) / 1e6
        word = "ahead of" if server_us > after_us else "behind"
        text = f"the database server's clock is {ahead_s:.1f} s {word} this host's"
        hint = "Set both clocks by NTP: times in plans are the database server's."
        if ahead_s >= SKEW_FAIL_S:
            yield fail("clock", text, hint)
        elif ahead_s >= SKEW_WARN_S:
            yield warn("clock", text, hint)
        else:
            yield ok(
                "clock", f"the database server's clock and this host's agree ({format_rfc3339(after_us)})"
            )

    # --- this host ---------------------------------------------------------------------------------

    def _hook(self) -> Iterator[Finding]:
        server, folder = self._examination.server, self._section.data_directory
        command = None if server is None else server.settings.get("archive_command")
        if folder is None or command is None:
            yield warn(
                "hook",
                "not tried: it takes `dsn` and `data_directory`, and a role in pg_monitor",
                "Run this on the database server's host.",
            )
        else:
            yield try_hook(command, folder)
        yield from hook_variant(command)

    def _daemon(self) -> Iterator[Finding]:
        path = self._host.settings.server.socket
        status, said = ask_server(path, "/readyz")
        if status == 200:
            yield ok("daemon", f"`walarchiver serve` answers on {path} and is ready")
        else:
            yield fail("daemon", f"`walarchiver serve` says: {said}", "Look at its log.")

    def _data_directory(self) -> Iterator[Finding]:
        folder = self._section.data_directory
        server = self._examination.server
        if folder is not None:
            yield data_directory_findings(folder, None if server is None else server.system)

    def _disk(self) -> Iterator[Finding]:
        server = self._examination.server
        size = 16 << 20 if server is None else int(server.settings.get("wal_segment_size", 16 << 20))
        yield from disk_findings(self._host.settings.server.state, self._section.data_directory, size)
        yield scan_finding()

    # --- repositories ------------------------------------------------------------------------------

    def _storage(self) -> Iterator[Finding]:
        for name in self._section.repositories:
            yield from probe_store(self._host, name, prefix=f"{name} ").findings

    def _repositories(self) -> Iterator[Finding]:
        for name in self._section.repositories:
            yield from looked_at(f"{name} ledger", partial(self._ledger, name))
            yield from key_findings(
                f"{name} ",
                self._host.settings.repository(name),
                self._archives.get(name),
                archiving=self._section.data_directory is not None,
            )

    def _ledger(self, name: str) -> Iterator[Finding]:
        server = self._examination.server
        system = None if server is None else server.system
        archive = self._archives[name] = open_part(self._host, self._cluster, name, system)
        entries = archive.ledger.state().next_seq
        yield ok(f"{name} ledger", f"{entries} entries, verified from the root key to the head")
        if voids := archive.catalog.voids():
            yield warn(
                f"{name} ledger",
                f"{len(voids)} void entries, the first is {voids[0]}",
                "Find out who wrote to the repository without a valid key.",
            )
        yield from self._checkpoints(name, archive)

    def _checkpoints(self, name: str, archive: Archive) -> Iterator[Finding]:
        about, kept = f"{name} checkpoints", kept_of(self._host, archive)
        if kept is None:
            yield warn(
                about,
                "kept nowhere else: that the ledger's newest entries were cut off would not be noticed",
                "Set `checkpoints` in the [cluster] section to a place where nobody who may delete here may.",
            )
        elif problem := kept.problem(archive.catalog):
            hint = (kept.failure and kept.failure.hint) or "Look at the daemon's log."
            yield (fail if isinstance(kept.failure, Untrusted) else warn)(about, problem, hint)
        else:
            newest = "none yet" if kept.newest is None else f"entry {kept.newest.seq} is the newest"
            yield ok(about, f"{newest} in {kept.url}")


def _rights(server: ServerCondition) -> Iterator[Finding]:
    if not server.may_replicate:
        yield fail("role", "the role of `dsn` lacks REPLICATION: no base backup", "ALTER ROLE … REPLICATION.")
    if not server.may_switch:
        yield warn(
            "role",
            "the role of `dsn` may not call pg_switch_wal: `check` cannot force a segment",
            "As a superuser: GRANT EXECUTE ON FUNCTION pg_switch_wal() TO that role.",
        )
    if server.may_replicate and server.may_switch:
        yield ok("role", "the role of `dsn` may replicate and switch WAL")


def durability_settings(server: ServerCondition) -> Iterator[Finding]:
    """Settings that do not stop archiving, but make what is archived less worth."""
    settings = server.settings
    for name, why in (
        ("fsync", "a crash of the host can destroy the cluster"),
        ("full_page_writes", "a crash can leave torn pages that replay does not mend"),
        ("data_checksums", "silent damage on disk would be archived and backed up unseen"),
    ):
        value = settings.get(name)
        if value == "off":
            how = (
                "Run pg_checksums --enable on the stopped cluster."
                if name == "data_checksums"
                else f"Set {name} = on."
            )
            yield warn("settings", f"{name} is off: {why}", how)
    senders = int(settings.get("max_wal_senders", "0"))
    if senders <= server.senders:
        yield fail(
            "settings",
            f"max_wal_senders is {senders} and {server.senders} are in use: no base backup can begin",
            "Set max_wal_senders higher and restart.",
        )
    else:
        yield ok("settings", f"max_wal_senders is {senders}, {server.senders} in use")
    if server.pending_restart:
        yield warn(
            "settings",
            f"changed but not in force before a restart: {', '.join(server.pending_restart)}",
            "Restart PostgreSQL, or take the change back.",
        )
    for slot, held in server.inactive_slots:
        if held >= SLOT_BYTES_WARN:
            yield warn(
                "slots",
                f"replication slot {slot} is not read by anybody and holds back {held / 1e9:.1f} GB of WAL",
                "Have its reader started, or drop the slot before pg_wal is full.",
            )
