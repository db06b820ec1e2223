"""The answer of `plan` for people: the verdict first, then what happens, then why.

Rules: at most 100 columns where the facts allow; times in UTC, the asked one also as it was
understood locally; a refusal names the nearest moments and the next step; nothing is abbreviated
that somebody might have to type.
"""

from __future__ import annotations

import textwrap

from restore.core.estimate import Estimate, estimate_text
from restore.core.model import Decision, Verdict, View
from restore.core.recoveryconf import Settings, quote_setting
from restore.core.when import Understood
from restore.core.wording import branch_text, counted, moment
from walarchiver.core.lsn import format_lsn

_WIDTH = 100
_LABEL = 14

_HEADLINES = {
    Verdict.REACHABLE: "REACHABLE",
    Verdict.IDLE: "REACHABLE (nothing happened between the last commit and the asked moment)",
    Verdict.GAP: "NOT REACHABLE: WAL is missing",
    Verdict.BEFORE_FIRST_BACKUP: "NOT REACHABLE: before the first base backup",
    Verdict.NOT_PROVEN: "NOT REACHABLE YET: not proven to be archived",
    Verdict.WRONG_BRANCH: "NOT REACHABLE on this timeline",
    Verdict.UNKNOWN_TARGET: "NOT FOUND",
    Verdict.AMBIGUOUS: "AMBIGUOUS",
}


def plan_text(
    decision: Decision,
    view: View,
    *,
    requested: Understood,
    settings: Settings = (),
    plan_id: str | None = None,
    duration: Estimate | None = None,
) -> str:
    """The whole answer, ended by a line feed."""
    lines = [_HEADLINES[decision.verdict], *_wrapped("", decision.reason), ""]
    lines += _wrapped("asked", requested.text)
    if decision.stop is not None:
        lines += _reachable(decision, view, plan_id)
        lines += [] if duration is None else _wrapped("duration", estimate_text(duration))
    else:
        lines += _refused(decision, view)
    for change in view.superseded_on(decision.path, decision.wal):
        lines += _wrapped(
            "superseded",
            f"{change.name}: an administrator put digest {change.new[:16]}… in the place of "
            f"{change.old[:16]}…: {change.reason}",
        )
    if decision.explained:
        lines += ["", "why"]
        for sentence in decision.explained:
            lines += textwrap.wrap(
                sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False
            )
    if settings:
        lines += ["", "settings (written to the end of postgresql.auto.conf)"]
        lines += [f"  {name} = {quote_setting(value)}" for name, value in settings]
    return "\n".join(lines) + "\n"


def _reachable(decision: Decision, view: View, plan_id: str | None) -> list[str]:
    stop, backup, wal = decision.stop, decision.backup, decision.wal
    assert stop is not None, "only called for a reachable decision"
    assert backup is not None, "a reachable decision has a base backup"
    assert wal is not None, "a reachable decision has a WAL list"
    edge = "with the record at" if stop.inclusive else "just before"
    lines = _wrapped("stop", f"{edge} {format_lsn(stop.lsn)} on timeline {stop.timeline}")
    if stop.last_commit is None:
        lines += _wrapped("last commit", "older than the base backup")
    else:
        commit = stop.last_commit
        lines += _wrapped("last commit", f"transaction {commit.xid} of {moment(commit.time)}")
    more = counted(decision.unseen_segments, "segment")
    unseen = f", besides those in {more} not looked at" if decision.unseen_segments else ""
    lines += _wrapped(
        "undone", f"{counted(decision.undone_commits, 'archived commit')} behind the stop{unseen}"
    )
    lines += _wrapped(
        "base backup", f"{backup.id}, {format_lsn(backup.start_lsn)} to {format_lsn(backup.stop_lsn)}"
    )
    if backup.below:
        lines += _wrapped(
            "builds on",
            f"{', '.join(one.id for one in reversed(backup.below))}: {backup.raw_in_all:,} bytes in all",
        )
    size = view.segment_size
    lines += _wrapped(
        "WAL",
        f"{wal.first.name(size)} to {wal.last.name(size)}, {counted(wal.count, 'file')}, {wal.bytes:,} bytes",
    )
    lines += _wrapped("path", branch_text(decision.path))
    if decision.prepared_open:
        names = ", ".join(
            repr(event.gid) if event.gid else str(event.xid) for event in decision.prepared_open
        )
        lines += _wrapped("prepared", f"{names}: end them by COMMIT PREPARED or ROLLBACK PREPARED")
    if plan_id is not None:
        lines += _wrapped("plan", plan_id)
    return lines


def _refused(decision: Decision, view: View) -> list[str]:
    lines = []
    if decision.nearest.before is not None:
        lines += _wrapped("nearest before", moment(decision.nearest.before))
    if decision.nearest.after is not None:
        lines += _wrapped("nearest after", moment(decision.nearest.after))
    if decision.horizon is not None:
        lines += _wrapped("proven until", moment(decision.horizon))
    if decision.missing:
        lines += _wrapped("missing", ", ".join(each.name(view.segment_size) for each in decision.missing))
    for point in decision.candidates:
        lines += _wrapped("candidate", f"lsn:{format_lsn(point.end)} of {moment(point.time)}")
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    head = f"  {label:<{_LABEL}}  " if label else "  "
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
