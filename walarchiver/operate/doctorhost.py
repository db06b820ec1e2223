"""What doctor looks at on this host: disks, the state folder, the data directory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from walarchiver.core.skim import COMPILED
from walarchiver.errors import WalarchiverError
from walarchiver.gauges import count_ready
from walarchiver.operate.findings import Finding, Level, fail, met, ok, warn
from walarchiver.postgres.control import read_data_directory

FREE_WARN = 0.10
FREE_FAIL = 0.03
SEGMENTS_FAIL = 8
"""Room for fewer segments than this is no room."""
READY_WARN = 16
STATE_FREE_WARN = 1 << 30


def disk_findings(state: Path, data_directory: Path | None, segment_bytes: int) -> Iterator[Finding]:
    """Room for the catalog and for WAL, and what waits to be archived."""
    yield _room("disk state", state, STATE_FREE_WARN, 0, "Losing it loses nothing, but archiving needs it.")
    if data_directory is None:
        return
    yield _room(
        "disk pg_wal",
        data_directory / "pg_wal",
        0,
        SEGMENTS_FAIL * segment_bytes,
        "PostgreSQL stops when it is full. Make room, or find out why WAL is not archived.",
    )
    waiting = count_ready(data_directory)
    if waiting >= READY_WARN:
        yield warn(
            "backlog",
            f"{waiting} WAL files wait to be archived",
            "Run `walarchiver check`; look at the daemon's log and at the store's speed.",
        )
    else:
        yield ok("backlog", f"{waiting} WAL files wait to be archived")


def scan_finding() -> Finding:
    """Whether segments are scanned while they are archived, and by what."""
    if COMPILED:
        return ok("wal scan", "compiled: every segment is scanned while it is archived")
    return warn(
        "wal scan",
        "segments are archived without a scan: the compiled part is not installed",
        "Install a wheel of this platform, or where a C compiler is. Until then plans open the segments that "
        "they need to see; run `walarchiver catalog scan` now and then, where a custodian's key is.",
    )


def _room(name: str, folder: Path, least: int, fatal: int, hint: str) -> Finding:
    place = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return warn(name, f"{place} cannot be looked at: {error.strerror}", "Run this as root.")
    share = usage.free / usage.total if usage.total else 0.0
    text = f"{usage.free / 1e9:,.1f} GB free ({share:.0%}) on {place}'s file system"
    if share < FREE_FAIL or usage.free < fatal:
        return fail(name, text, hint)
    if share < FREE_WARN and (least == 0 or usage.free < least):
        return warn(name, text, hint)
    return ok(name, text)


def state_findings(state: Path) -> Iterator[Finding]:
    """Whether the catalog can be kept, and by us alone."""
    if not state.is_dir():
        yield warn(
            "state",
            f"{state} is not there yet",
            "`walarchiver serve` makes it when its parent can be written; else make it for its user.",
        )
        return
    if not os.access(state, os.W_OK | os.X_OK):
        yield warn(
            "state",
            f"{state} cannot be written as this user, so every command reads the whole ledger",
            "Run this as the user of `walarchiver serve`.",
        )
        return
    if state.stat().st_mode & stat.S_IWOTH:
        yield fail("state", f"{state} can be written by every user", f"Run `chmod o-w {state}`.")
        return
    yield ok("state", f"{state} can be written")


def data_directory_findings(folder: Path, system: int | None) -> Finding:
    """Whether `data_directory` and `dsn` mean the same cluster."""
    try:
        here = read_data_directory(folder)
    except WalarchiverError as error:
        return met("data directory", error, Level.WARN)
    if system is not None and here.system != system:
        return fail(
            "data directory",
            f"{folder} holds system {here.system}, `dsn` reaches system {system}",
            "Let `dsn` and `data_directory` name the same cluster.",
        )
    return ok("data directory", f"{folder} is PostgreSQL {here.major}, system {here.system}")
