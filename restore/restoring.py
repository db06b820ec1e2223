"""Restoring: whether a recovery ended where its plan says.

Rules:
- A run to the target counts only when the stop point that PostgreSQL reports is the planned one and the
  last commit is there; else it failed.
"""

from __future__ import annotations

from datetime import datetime

from restore.core.plan import Plan
from restore.instance import Instance, Outcome, Reached
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_postgres, micros
from walarchiver.errors import RestoreFailed


def judge(plan: Plan, reached: Reached, instance: Instance) -> None:
    """Whether recovery ended where the plan says. Raises RestoreFailed with both places."""
    stop, log = plan.stop, reached.log
    where = f"{'after' if stop.inclusive else 'before'} {format_lsn(stop.lsn)} on timeline {stop.timeline}"
    if reached.outcome is Outcome.STOPPED:
        raise RestoreFailed(
            f"PostgreSQL stopped during recovery: {log.fatal or 'it does not say why'}",
            hint=f"Its log is {instance.log_path}; once the cause is gone, start it again: it goes on.",
        )
    if log.stop_lsn != stop.lsn or log.inclusive != stop.inclusive:
        found = log.stop or "the archive ended first"
        raise RestoreFailed(f"recovery was to stop {where}, but: {found}")
    if reached.history is not None and reached.history.parent != stop.timeline:
        raise RestoreFailed(f"recovery was to stop {where}, but it left timeline {reached.history.parent}")
    if log.redo_done != stop.lsn:
        # The line names the record that met the target, replayed (inclusive) or only read.
        met = "no record" if log.redo_done is None else format_lsn(log.redo_done)
        raise RestoreFailed(f"recovery was to stop {where}, but {met} met the target")
    wanted = stop.last_commit
    if wanted is None or log.last_commit is None or (stop.inclusive and wanted.lsn == stop.lsn):
        return  # after an inclusive stop at a commit the log still shows the transaction before it
    if log_time_us(log.last_commit) < wanted.time:
        raise RestoreFailed(
            f"the last transaction replayed is of {log.last_commit}, "
            f"but transaction {wanted.xid} of {format_postgres(wanted.time)} belongs to the state asked for"
        )


def log_time_us(text: str) -> int:
    """A time as the server's log prints it (`2026-11-22 14:32:06.5+00`), microseconds since 1970."""
    try:
        return micros(datetime.fromisoformat(text.strip()))
    except ValueError as error:
        raise RestoreFailed(f"the server's log shows a time that cannot be read: {text!r}") from error
