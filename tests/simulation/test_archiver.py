"""The archive path: what is refused, what is acknowledged when, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.kit.walmaker import MIB, make_segment
from tests.simulation.world import SYSTEM, SYSTEM_ID, Process, World, name_of, segment_bytes, wal_file
from walarchiver import archiver as archiver_module
from walarchiver import offered as offered_module
from walarchiver.archiver import Archived
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import (
    CorruptHistory,
    CorruptSegment,
    FileForbidden,
    FileMissing,
    NotARegularFile,
    NotAWalFile,
    SegmentChanged,
    SegmentConflict,
    WalarchiverError,
    WrongCluster,
)
from walarchiver.offered import open_plainly

NAME = name_of(1)
LEDGER = f"v1/c/{SYSTEM}/ledger/"
HISTORY = b"1\t0/3000000\tno recovery target specified\n"
LABEL = b"START WAL LOCATION: 0/100028 (file 000000010000000000000001)\n"


def reader(world: World) -> Process:
    process = world.process(write=False, identities=[world.identity()])
    process.ledger.refresh()
    return process


def assert_nothing_recorded(world: World) -> None:
    assert len(world.keys(LEDGER)) == 1
    assert world.keys("/history/") == world.keys("/label/") == []


# --- accepted ----------------------------------------------------------------------------------------


def test_an_archived_segment_opens_to_the_same_bytes(tmp_path: Path) -> None:
    world = World()
    path = wal_file(tmp_path, NAME)
    assert world.began().archive(path) == [Archived(NAME, MIB, fresh=True)]
    assert reader(world).plain(NAME) == path.read_bytes()
    record = reader(world).catalog.file(NAME)
    assert record is not None
    assert record.page.system == SYSTEM  # type: ignore[union-attr]
    assert record.objects[0].version_id is not None


@pytest.mark.parametrize("fresh_process", [False, True])
def test_the_same_bytes_again_succeed_without_writing(tmp_path: Path, fresh_process: bool) -> None:
    world = World()
    process = world.began()
    path = wal_file(tmp_path, NAME)
    process.archive(path)
    before = world.keys("v1/")
    again = world.began() if fresh_process else process
    assert again.archive(path, path) == [Archived(NAME, MIB, fresh=False)] * 2
    assert world.keys("v1/") == before


def test_other_bytes_under_a_recorded_name_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    first = wal_file(tmp_path, NAME)
    process.archive(first)
    before = world.keys("v1/")
    other = wal_file(tmp_path / "clone", NAME, seed=1)
    for offering in (process, world.began()):
        with pytest.raises(SegmentConflict, match=NAME):
            offering.archive(other)
    assert world.keys("v1/") == before
    assert reader(world).plain(NAME) == first.read_bytes()


def test_a_stale_process_that_meets_other_bytes_at_the_ledger_is_refused(tmp_path: Path) -> None:
    world = World()
    stale, quick = world.began(), world.began()
    stale.ledger.refresh()
    first = wal_file(tmp_path, NAME)
    quick.archive(first)
    with pytest.raises(SegmentConflict):
        stale.archive(wal_file(tmp_path / "clone", NAME, seed=1))
    assert reader(world).plain(NAME) == first.read_bytes()


def test_a_segment_with_a_zero_tail_behind_a_switch_is_accepted(tmp_path: Path) -> None:
    world = World()
    content = make_segment(Segment(1, 1), system=SYSTEM_ID, used_pages=3)
    world.began().archive(wal_file(tmp_path, NAME, content))
    assert reader(world).plain(NAME) == content


def test_the_first_segment_of_a_new_timeline_may_begin_with_its_parents_pages(tmp_path: Path) -> None:
    world = World()
    name = name_of(3, timeline=2)
    content = make_segment(Segment(2, 3), system=SYSTEM_ID, page_timeline=1)
    world.began().archive(wal_file(tmp_path, name, content))
    assert reader(world).plain(name) == content


def test_all_four_kinds_of_file_are_archived(tmp_path: Path) -> None:
    world = World()
    partial = make_segment(Segment(1, 2), system=SYSTEM_ID)[: MIB // 2] + b"recycled" * (MIB // 16)
    paths = [
        wal_file(tmp_path, "00000002.history", HISTORY),
        wal_file(tmp_path, f"{name_of(2)}.partial", partial),
        wal_file(tmp_path, f"{NAME}.00000028.backup", LABEL),
        wal_file(tmp_path, NAME),
    ]
    process = world.began()
    assert [one.fresh for one in process.archive(*paths)] == [True] * 4
    assert [one.fresh for one in process.archive(*paths)] == [False] * 4
    reading = reader(world)
    assert [reading.plain(path.name) for path in paths] == [path.read_bytes() for path in paths]
    assert reading.catalog.histories()[2].path == (1, 2)
    assert reading.catalog.runs() == [(1, 1, 1)], "a partial segment is no segment"
    assert reading.catalog.file(name_of(2)) is None


@pytest.mark.parametrize("content", [b"", b"\0\xff rubbish", b"x" * 300_000])
def test_a_bad_backup_history_file_never_blocks(tmp_path: Path, content: bytes) -> None:
    world = World()
    name = f"{NAME}.00000028.backup"
    process = world.began()
    assert process.archive(wal_file(tmp_path, name, content))[0].fresh
    assert not process.archive(tmp_path / name)[0].fresh
    assert reader(world).plain(name) == content


def test_other_content_under_a_recorded_history_is_refused(tmp_path: Path) -> None:
    world = World()
    process = world.began()
    process.archive(wal_file(tmp_path, "00000002.history", HISTORY))
    with pytest.raises(SegmentConflict):
        process.archive(wal_file(tmp_path / "b", "00000002.history", b"1\t0/4000000\tother\n"))


# --- refused -------------------------------------------------------------------------------------------

SEGMENT = Segment(1, 1)
GOOD = make_segment(SEGMENT, system=SYSTEM_ID)
STALE_PAGE = GOOD[: 40 * 8192] + make_segment(Segment(1, 9), system=SYSTEM_ID)[40 * 8192 :]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID + 1), WrongCluster, id="system identifier"),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, claimed_size=16 << 20), WrongCluster, id="claimed size"
        ),
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID, magic=0xD113), WrongCluster, id="another major"),
        pytest.param(make_segment(SEGMENT, system=SYSTEM_ID, magic=0xBEEF), CorruptSegment, id="magic"),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, page_timeline=2), CorruptSegment, id="newer timeline"
        ),
        pytest.param(
            make_segment(SEGMENT, system=SYSTEM_ID, address=7 << 20), CorruptSegment, id="page address"
        ),
        pytest.param(b"", CorruptSegment, id="empty"),
        pytest.param(GOOD[:39], CorruptSegment, id="shorter than a header"),
        pytest.param(GOOD[:-8192], CorruptSegment, id="short"),
        pytest.param(GOOD + b"\0", CorruptSegment, id="long"),
        pytest.param(GOOD * 3, CorruptSegment, id="huge"),
        pytest.param(bytes(MIB), CorruptSegment, id="zero"),
        pytest.param(STALE_PAGE, CorruptSegment, id="pages of a recycled segment"),
        pytest.param(GOOD[:8192] + bytes(8192) + GOOD[16384:], CorruptSegment, id="a zero page inside"),
    ],
)
def test_a_file_that_is_no_segment_of_this_cluster_is_refused_and_nothing_stored(
    tmp_path: Path, content: bytes, error: type[WalarchiverError]
) -> None:
    world = World()
    process = world.began()
    with pytest.raises(error):
        process.archive(wal_file(tmp_path, NAME, content))
    assert world.keys("/wal/") == []
    assert_nothing_recorded(world)
    assert process.archive(wal_file(tmp_path, NAME))[0].fresh, "the good file is taken afterwards"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000002.history", b""),
        ("00000002.history", b"# nothing but a comment\n"),
        ("00000002.history", b"2\t0/3000000\tits own parent\n"),
        ("00000003.history", b"2\t0/3000000\tx\n1\t0/4000000\ty\n"),
        ("00000002.history", b"x" * (2 << 20)),
        ("00000002.history", b"1\t0/30"),
        ("00000002.history", HISTORY[:-1]),
        ("00000002.history", b"\0\xff rubbish" * 500 + b"\n"),
        ("00000002.history", b"1\tFFFFFFFFFF/0\tx\n"),
        ("00000002.history", b"99999999999999999999999\t0/1\tx\n"),
        ("00000002.history", b"0\t0/1\tx\n"),
    ],
)
def test_a_history_that_makes_no_sense_is_refused_before_it_is_stored(
    tmp_path: Path, name: str, content: bytes
) -> None:
    world = World()
    with pytest.raises(CorruptHistory):
        world.began().archive(wal_file(tmp_path, name, content))
    assert_nothing_recorded(world)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "00000001.history", f"{NAME}.gz", NAME.lower() + "A", f"{NAME}.partial.partial"),
        *("RECOVERYXLOG", NAME[:-8] + "00001000"),
    ],
)
def test_a_name_that_no_wal_file_has_is_refused(tmp_path: Path, name: str) -> None:
    world = World()

    async def run() -> None:
        async with world.began().archiving() as archiver:
            await archiver.archive(name, tmp_path / "file")

    with pytest.raises(NotAWalFile):
        asyncio.run(run())
    assert_nothing_recorded(world)


def test_a_file_that_is_not_there_or_not_readable_is_refused(tmp_path: Path) -> None:
    process = World().began()
    with pytest.raises(FileMissing, match="is not there"):
        process.archive(tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    with pytest.raises(CorruptSegment, match="is not a regular file"):
        process.archive(tmp_path / NAME)


def test_a_file_that_may_not_be_read_is_told_apart_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads everything, so the refusal is that of another user."""
    process = World().began()
    path = wal_file(tmp_path, NAME)

    def refused(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(offered_module, "open_plainly", refused)
    with pytest.raises(FileForbidden, match="cannot be read: Permission denied"):
        process.archive(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    process = World().began()
    os.mkfifo(tmp_path / NAME)
    other_end = os.open(tmp_path / NAME, os.O_RDWR)  # so that even who opens it does not hang
    try:
        with pytest.raises(NotARegularFile, match="is not a regular file"):
            process.archive(tmp_path / NAME)
    finally:
        os.close(other_end)


def test_what_stands_in_a_segments_place_by_then_is_not_followed_and_not_waited_for(tmp_path: Path) -> None:
    """Between the look at the path and its opening anybody may have changed it."""
    (tmp_path / "elsewhere").write_bytes(segment_bytes(NAME))
    (tmp_path / NAME).symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_plainly(tmp_path / NAME)
    process = World().began()
    with pytest.raises(NotARegularFile):
        process.archive(tmp_path / NAME)
    os.mkfifo(tmp_path / "pipe")
    with open_plainly(tmp_path / "pipe") as pipe:  # at once, although nobody writes
        assert pipe.fileno() >= 0


def replace_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def append_page(path: Path) -> None:
    with path.open("ab") as out:
        out.write(bytes(8192))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: os.truncate(path, 1 << 20), "shorter"),
        (append_page, "changed while it was read"),
        (lambda path: path.write_bytes(path.read_bytes()), "changed while it was read"),
        (replace_file, "changed while it was read"),
        (lambda path: path.unlink(), "went away"),
    ],
    ids=["cut short", "grown", "written again", "replaced", "removed"],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    world = World(segment_size=SegmentBytes(4 << 20))
    name = name_of(1, size=world.segment_size)
    content = make_segment(Segment(1, 1), system=SYSTEM_ID, size=world.segment_size)
    path = wal_file(tmp_path, name, content)
    once = [change]

    def changed(step: str) -> None:
        if step == "archive: sealed" and once:
            once.pop()(path)

    process = world.process(observe=changed)
    process.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archiver_module, "PART_BYTES", 1 << 20)
        with pytest.raises(SegmentChanged, match=says):
            process.archive(path)
    assert_nothing_recorded(world)
    path.write_bytes(content)
    assert process.archive(path)[0].fresh
