"""Status: what can be restored, told from the ledger alone, and why not more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from restore.core.horizon import SAMPLE_MARGIN_US
from restore.planning import view_of
from tests.format.test_chain_roles import SCAN
from tests.kit.walmaker import MIB
from tests.simulation.test_backup import FACTS
from tests.simulation.test_ledger import sample as _sample
from tests.simulation.world import SYSTEM, World, name_of
from walarchiver.assembly import Archive
from walarchiver.checkpoints import STALE_US, Kept
from walarchiver.cli.status import status_text
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.objectname import ledger_key
from walarchiver.errors import StoreUnavailable
from walarchiver.format.checkpoint import Checkpoint
from walarchiver.format.records import (
    BackupRecord,
    FirstPage,
    ForkFact,
    GapRecord,
    HistoryRecord,
    HorizonRecord,
    Record,
    StoredObject,
    SupersedeRecord,
    WalRecord,
)
from walarchiver.format.scans import ScanRecord
from walarchiver.ledger import fact
from walarchiver.restorable import MISFIT
from walarchiver.status import DamagedWal, MissingWal, Status, status_document, status_of

T0 = 1_795_348_800_000_000
SECOND = 1_000_000
MARGIN = SAMPLE_MARGIN_US
HASH = "ab" * 32
TORN = "record at 0/300100 fails its checksum"


def wal(number: int, timeline: int = 1) -> WalRecord:
    stored = StoredObject(f"v1/c/{SYSTEM}/wal/x", 1, HASH)
    page = FirstPage(0xD110, SYSTEM, timeline, Lsn(number << 20), MIB)
    return WalRecord(name_of(number, timeline), HASH, MIB, (stored,), page)


def backup(
    at: int, *, start: int = 0x200028, stop: int = 0x200138, timeline: int = 1, tag: int = 0
) -> BackupRecord:
    return BackupRecord(
        backup=f"20261122T1200{tag:02}Z-00000000",
        method="full",
        source="primary",
        timeline=timeline,
        start_lsn=Lsn(start),
        checkpoint_lsn=Lsn(start),
        stop_lsn=Lsn(stop),
        start_time=CommitTime(T0 + at * SECOND),
        stop_time=CommitTime(T0 + at * SECOND),
        raw=1,
        stored=1,
        parts=0,
        parts_sha256=HASH,
        tablespaces=(),
        facts=FACTS,
    )


def seen(at: int, lsn: int, timeline: int = 1) -> HorizonRecord:
    return HorizonRecord(CommitTime(T0 + at * SECOND), Lsn(lsn), timeline)


def history(switch: int) -> HistoryRecord:
    stored = StoredObject(f"v1/c/{SYSTEM}/history/x", 1, HASH)
    return HistoryRecord("00000002.history", HASH, 10, (stored,), (ForkFact(1, Lsn(switch)),))


def archive_of(*records: Record, world: World | None = None) -> Archive:
    process = (world or World()).began()
    for record in records:
        assert process.ledger.commit([fact("x", record)]) == [None]
    return Archive(process.catalog.clusters()[0], process.repository, process.ledger)


def status(*records: Record) -> Status:
    archive = archive_of(*records)
    return status_of(archive, World().clock)


def seconds(time: CommitTime | None) -> float | None:
    return None if time is None else (time - T0) / SECOND


def test_without_a_backup_nothing_is_restorable() -> None:
    found = status(wal(1), wal(2), seen(5, 0x200100))
    assert (found.earliest, found.latest) == (None, None)
    assert "no base backup" in found.problems[0]
    assert found.last_segment == name_of(2)


def test_a_backup_whose_wal_is_not_archived_yet_is_not_restorable() -> None:
    found = status(wal(1), backup(0), seen(5, 0x1FF000))
    assert (found.earliest, found.latest) == (None, None)
    assert "its WAL archived" in found.reason


def test_a_complete_backup_without_samples_is_restorable_and_no_more_is_claimed() -> None:
    found = status(wal(2), backup(10))
    assert seconds(found.earliest) == 10
    assert found.latest is None
    assert "no moment behind it is proven" in found.reason


def test_the_newest_covered_sample_is_the_latest_restorable_second() -> None:
    found = status(wal(2), backup(10), wal(3), seen(20, 0x300100), seen(30, 0x400028), seen(40, 0x400100))
    assert (seconds(found.earliest), found.latest) == (10, T0 + 30 * SECOND - MARGIN)
    assert found.problems == ()
    assert name_of(3) in found.reason


def test_samples_before_the_backup_prove_nothing() -> None:
    found = status(wal(1), wal(2), backup(10), seen(5, 0x100100))
    assert found.latest is None


def test_behind_a_gap_only_a_later_backup_counts() -> None:
    records: list[Record] = [wal(2), backup(10), wal(3), seen(20, 0x300100), wal(5), seen(50, 0x500100)]
    found = status(*records)
    assert found.latest == T0 + 20 * SECOND - MARGIN
    assert found.gaps == (MissingWal(name_of(4), name_of(4), None),)
    assert "missing" in found.problems[0]
    later = backup(45, start=0x500028, stop=0x500060, tag=1)
    found = status(*records, later)
    assert found.latest == T0 + 50 * SECOND - MARGIN
    assert seconds(found.earliest) == 10


def test_a_gap_is_a_problem_until_a_backup_begins_behind_it_and_is_told_for_ever() -> None:
    records: list[Record] = [wal(2), backup(10), wal(3), wal(5), wal(6), seen(50, 0x600100)]
    assert "run `walarchiver backup` now" in status(*records, seen(20, 0x300100)).problems[0]
    inside = backup(40, start=0x4F0028, stop=0x500060, tag=1)
    assert any("run `walarchiver backup` now" in each for each in status(*records, inside).problems)
    later = backup(45, start=0x500028, stop=0x500060, tag=2)
    found = status(*records, inside, later)
    assert found.gaps == (MissingWal(name_of(4), name_of(4), later.backup),)
    assert found.problems == ()
    found = status(*records, later, wal(8))
    assert [gap.behind for gap in found.gaps] == [later.backup, None]
    assert len(found.problems) == 1
    assert name_of(7) in found.problems[0]


def damaged(number: int, digest: str = HASH) -> ScanRecord:
    """The scan of a segment that cannot be followed to its end."""
    return replace(
        SCAN,
        name=name_of(number),
        digest=digest,
        ending="bad",
        problem="record at 0/300100 fails its checksum",
    )


def test_a_segment_that_cannot_be_followed_ends_the_wal_like_a_missing_one() -> None:
    records: list[Record] = [
        wal(2),
        backup(10),
        seen(15, 0x2FF000),
        wal(3),
        damaged(3),
        wal(4),
        seen(40, 0x400100),
    ]
    found = status(*records)
    assert found.latest == T0 + 15 * SECOND - MARGIN
    assert found.gaps == ()
    assert found.damaged == (DamagedWal(name_of(3), TORN, None),)
    assert "fails its checksum" in found.problems[0]
    later = backup(30, start=0x400028, stop=0x400060, tag=1)
    found = status(*records, later)
    assert found.latest == T0 + 40 * SECOND - MARGIN
    assert found.damaged[0].behind == later.backup
    assert found.problems == ()


def whole(number: int, *, first_prev: int | None = None, digest: str = HASH) -> ScanRecord:
    """The scan of a sound segment, which goes on from the one before it or from another."""
    begin = number << 20
    return replace(
        SCAN,
        name=name_of(number),
        digest=digest,
        overwritten=(),
        first=Lsn(begin + 0x28),
        first_prev=Lsn(begin - 0x100 if first_prev is None else first_prev),
        last=Lsn(begin + 0xFFF00),
        end=Lsn(begin + (1 << 20)),
    )


def test_a_whole_segment_that_does_not_go_on_from_the_one_before_ends_the_wal_between_them() -> None:
    records: list[Record] = [
        *(wal(2), whole(2), backup(10), seen(15, 0x2FF000)),
        *(wal(3), whole(3, first_prev=0x2F0000), wal(4), whole(4), seen(40, 0x400100)),
    ]
    found = status(*records)
    assert found.latest == T0 + 15 * SECOND - MARGIN
    assert found.gaps == ()
    assert found.damaged == (DamagedWal(name_of(3), MISFIT, None),)
    (problem,) = found.problems
    assert problem.startswith(
        f"{name_of(3)} is archived, but does not go on from the segment before it, and no "
    )
    with_it = backup(30, start=0x300028, stop=0x300060, tag=1)
    found = status(*records, with_it)
    assert found.latest == T0 + 40 * SECOND - MARGIN, "what begins with it is as good as any"
    assert found.damaged == (DamagedWal(name_of(3), MISFIT, with_it.backup),)
    assert found.problems == ()


def test_a_replaced_segment_that_is_whole_and_fits_neither_side_is_told() -> None:
    world, new = World(), "cd" * 32
    sound: list[Record] = [
        *(wal(2), whole(2), backup(10), wal(3), whole(3), wal(4), whole(4), seen(40, 0x400100)),
    ]
    archive = archive_of(*sound, world=world)
    assert status_of(archive, world.clock).problems == ()
    other = replace(wal(3), digest=new, objects=(replace(wal(3).objects[0], key=f"v1/c/{SYSTEM}/wal/y"),))
    its_scan = replace(whole(3, first_prev=0x2F0000, digest=new), last=Lsn(0x3F0000))
    for record in (other, its_scan):
        assert archive.ledger.commit([fact("x", record)]) == [None]
    assert status_of(archive, world.clock).damaged == (), "the first one is the file"
    admin = world.process(signer=world.key("admin").signer())
    admin.ledger.refresh()
    assert admin.ledger.commit([fact("s", SupersedeRecord(wal(3).name, HASH, new, "a test"))]) == [None]
    archive.ledger.refresh()
    found = status_of(archive, world.clock)
    assert [(one.name, one.problem) for one in found.damaged] == [(name_of(3), MISFIT), (name_of(4), MISFIT)]
    assert len(found.problems) == 2 + (found.latest is None)


def test_a_scan_of_other_bytes_than_those_in_force_ends_nothing() -> None:
    found = status(wal(2), backup(10), wal(3), damaged(3, digest="cd" * 32), seen(20, 0x300100))
    assert found.latest == T0 + 20 * SECOND - MARGIN
    assert (found.damaged, found.problems) == ((), ())


def test_a_backup_of_an_old_primary_ends_no_gap_of_production() -> None:
    fork: list[Record] = [wal(2), backup(10), wal(4), history(0x500000), wal(5, 2), seen(40, 0x500100, 2)]
    stray = backup(30, start=0x500028, stop=0x500060, tag=1)
    found = status(*fork, stray)
    assert found.timeline == 2
    assert [gap.behind for gap in found.gaps] == [None]
    mine = backup(35, start=0x500028, stop=0x500060, timeline=2, tag=2)
    assert [gap.behind for gap in status(*fork, stray, mine).gaps] == [mine.backup]


def test_the_order_in_which_segments_arrived_changes_nothing() -> None:
    records: list[Record] = [wal(2), wal(3), wal(4), backup(10), seen(30, 0x400100)]
    assert status(*records).latest == status(*reversed(records)).latest == T0 + 30 * SECOND - MARGIN


def test_across_a_fork_the_child_continues_the_parents_backup() -> None:
    found = status(wal(2), backup(10), wal(3), wal(3, 2), wal(4, 2), history(0x380000), seen(40, 0x400100, 2))
    assert found.timeline == 2
    assert found.latest == T0 + 40 * SECOND - MARGIN
    assert found.last_segment == name_of(4, 2)


def test_what_the_old_primary_did_behind_the_fork_is_no_part_of_the_new_timeline() -> None:
    """It went on: a backup and samples on timeline 1, behind where timeline 2 left it."""
    fork: list[Record] = [wal(2), wal(3), wal(4), history(0x380000), wal(3, 2), wal(4, 2)]
    stray: list[Record] = [backup(30, start=0x390028, stop=0x390060), seen(60, 0x4F0000)]
    found = status(*stray, *fork)
    assert (found.earliest, found.latest) == (None, None)
    found = status(backup(10, tag=1), *stray, *fork, seen(40, 0x400100, 2))
    assert found.timeline == 2
    assert seconds(found.earliest) == 10
    assert found.latest == T0 + 40 * SECOND - MARGIN


def test_void_entries_are_an_alarm() -> None:
    world = World()
    world.began()
    world.memory.put_new(ledger_key(SYSTEM, 1), b"junk")
    found = status_of(archive_of(wal(2), backup(10), world=world), world.clock)
    assert found.void_entries == (1,)
    assert any("void ledger entries" in problem for problem in found.problems)


def test_a_store_for_a_single_writer_is_a_problem() -> None:
    archive = replace(archive_of(wal(2), backup(10)), single_writer=True)
    assert any("second creates" in problem for problem in status_of(archive, World().clock).problems)


def test_where_checkpoints_are_kept_is_told_and_what_keeps_them_from_it_is_a_problem() -> None:
    archive = archive_of(wal(2), backup(10), wal(3), seen(20, 0x300100))
    head = archive.catalog.newest_valid()
    assert head is not None
    newest = Checkpoint(archive.repository.repo, SYSTEM, *head, T0, 1, "0" * 16)
    good = Kept("file:///elsewhere", newest)
    assert status_of(archive, World().clock, good).problems == ()
    document = status_document(archive, World().clock, good)
    assert document["checkpoints"] == {
        "place": "file:///elsewhere",
        "seq": head[0],
        "time": "2026-11-22T12:00:00.000000Z",
    }
    assert status_document(archive, World().clock)["checkpoints"] is None
    for broken in (
        replace(good, failure=StoreUnavailable("no answer")),
        replace(good, newest=replace(newest, time=T0 - STALE_US - SECOND)),
    ):
        (problem,) = status_of(archive, World().clock, broken).problems
        assert "file:///elsewhere" in problem


def test_the_screen_says_where_checkpoints_are_kept() -> None:
    archive = archive_of(wal(2))
    newest = Checkpoint(archive.repository.repo, SYSTEM, 1, HASH, T0, 1, "0" * 16)
    for kept, wanted in (
        (None, "kept nowhere else: `checkpoints` in the [cluster] section"),
        (Kept("file:///x", None), "none yet in file:///x"),
        (Kept("file:///x", newest), "entry 1, "),
    ):
        text = status_text(status_of(archive, World().clock, kept), None)
        assert f"checkpoints          {wanted}" in text


def test_the_document_says_the_same_in_json() -> None:
    archive = archive_of(wal(2), backup(10), wal(3), seen(20, 0x300100))
    document = status_document(archive, World().clock)
    assert document["latest_restorable"] == "2026-11-22T12:00:19.000000Z"
    assert document["earliest_restorable"] == "2026-11-22T12:00:10.000000Z"
    assert document["problems"] == []


def test_the_planners_view_shows_what_the_catalog_holds() -> None:
    gap = GapRecord(name_of(4), name_of(4), "lost")
    archive = archive_of(
        wal(2), backup(10), wal(3), wal(5), gap, history(0x380000), seen(20, 0x300100), wal(6, 2), _sample(0)
    )
    view = view_of(archive.catalog, archive.cluster, archive.ledger.state().next_seq)
    assert [(run.timeline, run.first, run.last) for run in view.runs] == [(1, 2, 3), (1, 5, 5), (2, 6, 6)]
    assert view.current_timeline == 2
    assert view.histories[2].path == (1, 2)
    assert [one.stop_lsn for one in view.backups] == [0x200138]
    assert view.ledger_seq == 10
    assert len(view.horizons) == 2
    assert view.backups[0].limits.max_connections == 100


@pytest.mark.parametrize("turned", [False, True])
def test_production_is_the_youngest_timeline_that_is_heard_of(*, turned: bool) -> None:
    records: list[Record] = [wal(3), history(0x280000), wal(3, 2)]
    assert status(*(reversed(records) if turned else records)).timeline == 2
