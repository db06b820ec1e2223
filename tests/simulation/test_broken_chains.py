"""A base backup that lacks one that it builds on: no plan is made on it, and the operator is told."""

from __future__ import annotations

from dataclasses import replace

from restore.planning import view_of
from tests.format.test_backupchain import on
from tests.simulation.test_status import archive_of, backup, seconds, status, wal
from walarchiver.core.lsn import Lsn
from walarchiver.format.records import BackupRecord
from walarchiver.restorable import Spans

FULL = backup(10)
PLACE = {"start_lsn": Lsn(0x300028), "stop_lsn": Lsn(0x300138)}
WHOLE: BackupRecord = on(FULL, "20261122T120002Z-00000000", **PLACE)
LOST: BackupRecord = on(replace(FULL, backup="lost"), "20261122T120003Z-00000000", **PLACE)


def test_a_backup_without_what_it_builds_on_is_no_candidate() -> None:
    archive = archive_of(wal(2), wal(3), FULL, WHOLE, LOST)
    view = view_of(archive.catalog, archive.cluster, 0)
    assert [(one.id, [below.id for below in one.below]) for one in view.backups] == [
        (FULL.backup, []),
        (WHOLE.backup, [FULL.backup]),
    ]
    assert {span.backup for span in Spans(archive).all()} == {FULL.backup, WHOLE.backup}


def test_status_says_which_backups_cannot_be_restored_and_what_to_do() -> None:
    found = status(wal(2), wal(3), LOST)
    assert found.earliest is None
    assert found.broken == (LOST.backup,)
    assert any("lack one that they build on" in problem for problem in found.problems)
    sound = status(wal(2), wal(3), FULL, WHOLE)
    assert (sound.broken, sound.incrementals, seconds(sound.earliest)) == ((), 1, 10)
