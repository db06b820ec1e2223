"""A restore is called good only when recovery ended exactly where the plan says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from restore.core.model import Stop
from restore.instance import HistoryEnd, Instance, Outcome, Reached
from restore.recoverylog import RecoveryLog
from restore.restoring import judge
from tests.restore_core.test_policy import PLAN
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, EventKind
from walarchiver.errors import RestoreFailed

AT = Lsn(0x7000100)
NOON = CommitTime(1_795_348_800_000_000)
COMMIT = Event(EventKind.COMMIT, Lsn(0x7000050), Lsn(0x7000080), 739, NOON)
PLANNED = replace(PLAN, stop=Stop(AT, False, 2, COMMIT, None))
LOG = RecoveryLog(
    stop='recovery stopping before WAL location (LSN) "0/7000100"',
    stop_lsn=AT,
    inclusive=False,
    redo_done=AT,
    last_commit="2026-11-22 12:00:00.000000+00",
)
GOOD = Reached(Outcome.PROMOTED, LOG, HistoryEnd(3, 2, AT, "before"), None)


class _Instance:
    log_path = Path("/restored/log")


INSTANCE = cast(Instance, _Instance())


def test_the_planned_end_is_good() -> None:
    judge(PLANNED, GOOD, INSTANCE)
    judge(PLANNED, replace(GOOD, outcome=Outcome.PAUSED, history=None), INSTANCE)


@pytest.mark.parametrize(
    "reached",
    [
        pytest.param(replace(GOOD, outcome=Outcome.STOPPED), id="the server stopped"),
        pytest.param(replace(GOOD, log=replace(LOG, stop=None, stop_lsn=None)), id="WAL ended first"),
        pytest.param(replace(GOOD, log=replace(LOG, stop_lsn=Lsn(AT + 8))), id="another target"),
        pytest.param(replace(GOOD, log=replace(LOG, inclusive=True)), id="behind instead of before"),
        pytest.param(replace(GOOD, history=HistoryEnd(3, 1, AT, "")), id="another timeline"),
        pytest.param(replace(GOOD, log=replace(LOG, redo_done=Lsn(AT + 8))), id="another record met it"),
        pytest.param(replace(GOOD, log=replace(LOG, redo_done=None)), id="nothing was replayed"),
        pytest.param(
            replace(GOOD, log=replace(LOG, last_commit="2026-11-22 11:59:59.999999+00")),
            id="an older transaction was the last",
        ),
        pytest.param(replace(GOOD, log=replace(LOG, last_commit="noon")), id="a time that cannot be read"),
    ],
)
def test_any_other_end_is_a_failure(reached: Reached) -> None:
    with pytest.raises(RestoreFailed):
        judge(PLANNED, reached, INSTANCE)
