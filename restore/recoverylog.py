"""What a server's log and history file say about how its recovery ended.

Sources: PostgreSQL src/backend/access/transam/xlogrecovery.c (recoveryStopsBefore,
recoveryStopsAfter, getRecoveryStopReason, "redo done at"); the log must be in English
(lc_messages = C), as instance.py starts it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn, parse_lsn

_STOP = re.compile(r"LOG:  (recovery stopping (before|after|at) .*)")
_STOP_LSN = re.compile(r'WAL location \(LSN\) "([0-9A-F]+/[0-9A-F]+)"')
_REDO_START = re.compile(r"LOG:  redo starts at ([0-9A-F]+/[0-9A-F]+)")
_REDO_DONE = re.compile(r"LOG:  redo done at ([0-9A-F]+/[0-9A-F]+)")
_LAST_COMMIT = re.compile(r"LOG:  last completed transaction was at log time (.*)")
_NEW_TIMELINE = re.compile(r"LOG:  selected new timeline ID: (\d+)")
_FATAL = re.compile(r"(?:FATAL|PANIC):  (.*)")


@dataclass(frozen=True, slots=True)
class RecoveryLog:
    """The lines of one recovery that matter; None: no such line."""

    redo_start: Lsn | None = None
    stop: str | None = None
    """`recovery stopping before ...`: the target was met. Without it recovery just ran out of WAL."""
    stop_lsn: Lsn | None = None
    """The LSN that this line names, for LSN targets."""
    inclusive: bool | None = None
    """Whether the record that met the target was replayed."""
    redo_done: Lsn | None = None
    """Start of the last record *read*: the last one replayed, or, when recovery stopped before a
    record, that record itself. Either way it is the record that met an LSN target."""
    last_commit: str | None = None
    """Time of the last transaction replayed, as the log prints it. After an inclusive LSN stop at
    a commit that is the transaction *before* it (recoveryStopsAfter returns before it notes the
    time), so a time older than the stop record's own proves nothing there."""
    new_timeline: int | None = None
    fatal: str | None = None
    """Why the server ended by itself."""


@dataclass(frozen=True, slots=True)
class HistoryEnd:
    """The last line of the new timeline's history file."""

    timeline: int
    parent: int
    switch: Lsn
    """End of the last record that was kept."""
    reason: str


def parse_log(text: str) -> RecoveryLog:
    """Read the log of one recovery; of repeated lines the last one counts, of the FATAL ones the first."""
    stop = _last(_STOP, text)
    named = _STOP_LSN.search(stop[1]) if stop else None
    fatal = _FATAL.search(text)
    return RecoveryLog(
        redo_start=_lsn(_last(_REDO_START, text)),
        stop=stop[1] if stop else None,
        stop_lsn=_lsn(named),
        inclusive=None if stop is None else stop[2] != "before",
        redo_done=_lsn(_last(_REDO_DONE, text)),
        last_commit=found[1] if (found := _last(_LAST_COMMIT, text)) else None,
        new_timeline=int(found[1]) if (found := _last(_NEW_TIMELINE, text)) else None,
        fatal=fatal[1] if fatal else None,
    )


def parse_history_end(timeline: int, content: bytes) -> HistoryEnd:
    """Raises MalformedObject when it is no history file."""
    fork = TimelineHistory.parse(timeline, content).forks[-1]
    start = f"{fork.parent}\t"
    last = content.decode("utf-8", "replace").rpartition(start)[2]  # a reason may hold line ends
    return HistoryEnd(timeline, fork.parent, fork.switch, last.partition("\t")[2].strip())


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 (the last one is wanted)
        pass
    return found


def _lsn(match: re.Match[str] | None) -> Lsn | None:
    return None if match is None else parse_lsn(match[1])
