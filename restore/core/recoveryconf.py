"""The settings that make PostgreSQL stop where the planner decided.

Rules:
- One target only: all five others are blanked, since a base backup carries along whatever recovery
  settings were active on the primary, and two targets are FATAL.
- Always an LSN, never a time; always a numeric timeline, never `latest` or `current`.
- Everything goes to the end of postgresql.auto.conf: it overrides postgresql.conf, and of two lines
  the last one wins.
- archive_mode is off: the restored copy has the original's system identifier and must not write
  into the same archive before its owner accepts it.
- The five limits are the largest that the primary had in the replayed range; lower ones pause or
  stop a hot standby.
Source of names and semantics: PostgreSQL documentation, "Recovery Target" and "Archive Recovery";
quoting: src/backend/utils/misc/guc-file.l, GUC_scanstr.
"""

from __future__ import annotations

from restore.core.model import Decision, Limits
from walarchiver.core.lsn import format_lsn
from walarchiver.errors import UsageError

Settings = tuple[tuple[str, str], ...]
"""Names and plain (unquoted) values, in the order they are written."""

ACTIONS = ("promote", "pause", "shutdown")


def recovery_settings(decision: Decision, *, restore_command: str, action: str = "promote") -> Settings:
    """The settings of a reachable decision (a refusal has none: assert).

    `restore_command` is taken as it is: the caller writes it for the shell, with %f and %p.
    """
    assert decision.stop is not None, "a refusal has no settings"
    assert action in ACTIONS, action
    stop = decision.stop
    return (
        ("restore_command", restore_command),
        ("recovery_target", ""),
        ("recovery_target_time", ""),
        ("recovery_target_xid", ""),
        ("recovery_target_name", ""),
        ("recovery_target_lsn", format_lsn(stop.lsn)),
        ("recovery_target_inclusive", "on" if stop.inclusive else "off"),
        ("recovery_target_timeline", str(decision.path.timeline)),
        ("recovery_target_action", action),
        ("recovery_end_command", ""),
        ("archive_cleanup_command", ""),
        ("recovery_min_apply_delay", "0"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("archive_mode", "off"),
        *(limit_settings(decision.limits) if decision.limits is not None else ()),
    )


def limit_settings(limits: Limits) -> Settings:
    """The settings that must be at least the primary's, by name."""
    return (
        ("max_connections", str(limits.max_connections)),
        ("max_worker_processes", str(limits.max_worker_processes)),
        ("max_wal_senders", str(limits.max_wal_senders)),
        ("max_prepared_transactions", str(limits.max_prepared_transactions)),
        ("max_locks_per_transaction", str(limits.max_locks_per_transaction)),
    )


def render_settings(settings: Settings, *, comments: tuple[str, ...] = ()) -> str:
    """Lines to append to postgresql.auto.conf, each ended by a line feed.

    It begins with an empty line, so that it is safe behind a file without a last line feed.
    Raises UsageError for a value that a configuration file cannot hold.
    """
    lines = ["", *(f"# {_one_line(comment)}" for comment in comments)]
    lines += [f"{name} = {quote_setting(value)}" for name, value in settings]
    return "\n".join(lines) + "\n"


def quote_setting(value: str) -> str:
    """`value` as a configuration file spells it: quotes and backslashes doubled.

    Raises UsageError for line breaks and NUL, which no quoting lets through.
    """
    if any(char in value for char in "\n\r\0"):
        raise UsageError(
            f"{value!r} cannot be a setting: it holds a line break or NUL",
            hint="Are there line breaks in the paths or names of the configuration?",
        )
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _one_line(comment: str) -> str:
    """A comment cannot end its line: what people wrote after --at appears in it."""
    return "".join(char if char.isprintable() else "?" for char in comment)
