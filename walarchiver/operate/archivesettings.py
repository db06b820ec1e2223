"""Whether PostgreSQL's settings let WAL be archived at all, as `check` and `doctor` say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from walarchiver.operate.findings import Finding, fail, ok, warn
from walarchiver.operate.hooktrial import calls_hook


def archive_settings(settings: Mapping[str, str]) -> Iterator[Finding]:
    """What PostgreSQL's archive settings are worth. `settings` as pg_settings has them."""
    mode, level = settings.get("archive_mode", "unknown"), settings.get("wal_level", "unknown")
    faults = list(_faulty(settings, mode, level))
    yield from faults
    if not faults:
        yield ok("settings", f"archive_mode {mode}, wal_level {level}, archive_command calls the hook")
    if settings.get("archive_timeout") == "0":
        yield warn(
            "settings",
            "archive_timeout is 0: what is written last stays unarchived until its segment is full",
            "Set archive_timeout to what may be lost, for example '60s'.",
        )


def _faulty(settings: Mapping[str, str], mode: str, level: str) -> Iterator[Finding]:
    if mode not in ("on", "always"):
        yield fail(
            "settings",
            f"archive_mode is {mode}, so nothing is archived",
            "Set archive_mode = on and restart.",
        )
    if level == "minimal":
        yield fail("settings", "wal_level is minimal", "Set wal_level = replica and restart.")
    if library := settings.get("archive_library"):
        yield fail(
            "settings",
            f"archive_library is {library!r}: archive_command is not called",
            "Set archive_library = '' and reload.",
        )
    command = settings.get("archive_command")
    if command is not None and not calls_hook(command):
        yield fail(
            "settings",
            "archive_command does not call `walarchiver-hook push %p`",
            "Set archive_command = 'walarchiver-hook push %p' and reload.",
        )
