"""Whether a server could take an incremental base backup now: asked before it is tried.

Rules:
- WAL summaries (17 and later, `summarize_wal`) tell the server which blocks changed since the backup before;
  they have to reach back to where that one began, or an incremental backup cannot be taken.
- What is asked here is a courtesy, for a clear answer before anything is uploaded: the server judges again.

Source: PostgreSQL documentation, "Incremental Backup", "WAL Summarization Information Functions".
"""

from __future__ import annotations

from dataclasses import dataclass

from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.postgres.connection import connected, database_errors

SUMMARIES_VERSION = 170000


@dataclass(frozen=True, slots=True)
class WalSummaries:
    """What a server has summarized."""

    version_num: int
    enabled: bool
    oldest: Lsn | None
    """Start of the oldest summary that is still there, of the timeline that was asked about."""
    reached: Lsn
    """Up to where WAL has been summarized."""

    def lacking(self, start: Lsn) -> str | None:
        """Why a backup that began at `start` cannot be built on; None when it can, as far as this tells."""
        if self.version_num < SUMMARIES_VERSION:
            return "PostgreSQL takes incremental backups from version 17 on"
        if not self.enabled:
            return "summarize_wal is off on the server"
        if self.oldest is None and self.reached <= start:
            return None  # the server waits for what is being summarized just now
        if self.oldest is None or self.oldest > start:
            since = "there are none" if self.oldest is None else f"they begin at {format_lsn(self.oldest)}"
            return f"its WAL summaries do not reach back to {format_lsn(start)}: {since}"
        return None


def wal_summaries(dsn: str, *, timeline: int) -> WalSummaries:
    """Raises DatabaseUnavailable."""
    with connected(dsn) as connection, database_errors():
        version = connection.info.server_version
        if version < SUMMARIES_VERSION:
            return WalSummaries(version, enabled=False, oldest=None, reached=Lsn(0))
        rows = connection.execute(
            "SELECT current_setting('summarize_wal') = 'on', "
            "(SELECT min(start_lsn)::text FROM pg_available_wal_summaries() WHERE tli = %s), "
            "(SELECT summarized_lsn::text FROM pg_get_wal_summarizer_state())",
            (timeline,),
        ).fetchall()
    ((enabled, oldest, reached),) = rows
    return WalSummaries(
        version, bool(enabled), None if oldest is None else parse_lsn(str(oldest)), parse_lsn(str(reached))
    )
