"""The record walk and the scans against pg_waldump, on WAL that real servers wrote."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.core.evidence import PAGE, SIZE, Evidence, Line, events_told, gather
from tests.core.twins import scanned_alike
from tests.kit.postgres import open_folder, seldom
from walarchiver.core.commits import scan_segment
from walarchiver.core.lsn import Lsn, format_lsn, parse_lsn
from walarchiver.core.moment import format_postgres
from walarchiver.core.scan import Ending, Event, EventKind, SegmentScan
from walarchiver.core.segment import Segment
from walarchiver.core.walpage import check_pages, check_segment, read_first_page
from walarchiver.core.walreader import CrcPolicy, Walk
from walarchiver.core.walrecord import RMGR_NAMES, WalRecord


@pytest.fixture(scope="module", params=(14, 15, *seldom(16, 17), 18), ids=lambda major: f"pg{major}")
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    folder = open_folder("wa-wal-")
    try:
        yield gather(request.param, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def walk(evidence: Evidence, *, crc: CrcPolicy = CrcPolicy.ALL) -> Walk:
    return Walk(iter(evidence.parent.items()), segment_size=SIZE, crc=crc)


def as_lines(records: list[WalRecord]) -> list[tuple[str, int, int, Lsn, Lsn]]:
    return [(RMGR_NAMES[one.rmid], one.total, one.xid, one.start, one.prev) for one in records]


def without_words(lines: list[Line]) -> list[tuple[str, int, int, Lsn, Lsn]]:
    return [(line.rmgr, line.total, line.xid, line.lsn, line.prev) for line in lines]


def told(events: list[Event]) -> list[tuple[str, Lsn, int, str]]:
    return [(one.kind.value, one.lsn, one.xid, format_postgres(one.time)) for one in events]


def scans(evidence: Evidence) -> tuple[list[SegmentScan], list[Event]]:
    """Every segment of timeline 1 up to the end of what was written, each scanned by itself."""
    found: list[SegmentScan] = []
    events: list[Event] = []
    last = evidence.parent_lines[-1].lsn // SIZE
    for number in range(min(evidence.parent), last + 1):
        scan, more = scan_segment(Segment(1, number), evidence.parent.get, segment_size=SIZE)
        found.append(scan)
        events += more
    return found, events


def test_the_record_list_is_that_of_pg_waldump(evidence: Evidence) -> None:
    found = walk(evidence)
    assert as_lines(list(found)) == without_words(evidence.parent_lines)
    assert (found.ending, found.problem) == (Ending.ZERO, "")


def test_every_record_can_be_taken_apart(evidence: Evidence) -> None:
    blocks = sum(len(record.parts().blocks) for record in walk(evidence, crc=CrcPolicy.NONE))
    printed = sum(line.rest.count("blkref #") for line in evidence.parent_lines)
    assert blocks == printed > 1000


def test_each_record_ends_where_the_next_may_start(evidence: Evidence) -> None:
    records = list(walk(evidence, crc=CrcPolicy.NONE))
    torn = {line.prev for line in evidence.parent_lines if line.word == "OVERWRITE_CONTRECORD"}
    for one, following in pairwise(records):
        header = 40 if one.end % SIZE == 0 else 24 if one.end % PAGE == 0 else 0
        assert following.start == one.end + header or one.start in torn, format_lsn(one.start)


def test_a_record_torn_by_a_crash_is_known_as_overwritten(evidence: Evidence) -> None:
    found = walk(evidence)
    list(found)
    named = [
        parse_lsn(re.search(r"lsn ([0-9A-F]+/[0-9A-F]+)", line.rest)[1])  # type: ignore[index]
        for line in evidence.parent_lines
        if line.word == "OVERWRITE_CONTRECORD"
    ]
    assert found.overwritten == named != []


def test_every_event_has_the_kind_xid_and_time_that_pg_waldump_prints(evidence: Evidence) -> None:
    _, events = scans(evidence)
    expected = events_told(evidence.parent_lines)
    assert told(events) == expected
    assert {kind for kind, *_ in expected} == {kind.value for kind in EventKind}


def test_prepared_transactions_are_known_by_their_names(evidence: Evidence) -> None:
    _, events = scans(evidence)
    assert [(one.kind, one.gid) for one in events if one.gid is not None] == [
        (EventKind.PREPARE, "gid one"),
        (EventKind.PREPARE, "gid two"),
        (EventKind.PREPARE, "gid three"),
        (EventKind.ABORT_PREPARED, "gid three"),
        (EventKind.COMMIT_PREPARED, "gid one"),
        (EventKind.ABORT_PREPARED, "gid two"),
        (EventKind.PREPARE, "gid open"),
    ]


def test_scans_of_single_segments_join_to_one_chain(evidence: Evidence) -> None:
    found, _ = scans(evidence)
    assert sum(scan.records for scan in found) == len(evidence.parent_lines)
    last = None
    for scan in found:
        assert scan.ending is Ending.WHOLE or scan is found[-1]
        if scan.first is not None:
            assert last is None or scan.first_prev == last
            last = scan.last
    switches = [line.lsn // SIZE for line in evidence.parent_lines if line.word == "SWITCH"]
    assert [scan.segment.number for scan in found if scan.switched] == switches


def test_restore_points_and_limits_are_those_the_server_wrote(evidence: Evidence) -> None:
    found, _ = scans(evidence)
    points = [point for scan in found for point in scan.restore_points]
    assert [point.name for point in points] == ["first point", "second", "second"]
    printed = [line.lsn for line in evidence.parent_lines if line.word == "RESTORE_POINT"]
    assert [point.lsn for point in points] == printed
    changes = [change for scan in found for change in scan.parameter_changes]
    assert [(one.max_prepared_transactions, one.wal_level) for one in changes] == [(20, 2)]
    checkpoints = [check.lsn for scan in found for check in scan.checkpoints]
    words = {"CHECKPOINT_ONLINE", "CHECKPOINT_SHUTDOWN"}
    assert checkpoints == [line.lsn for line in evidence.parent_lines if line.word in words]


def test_finished_segments_pass_the_checks_of_archiving(evidence: Evidence) -> None:
    last = evidence.parent_lines[-1].lsn // SIZE
    system = read_first_page(evidence.parent[last]).system
    for number in range(min(evidence.parent), last):
        data, name = evidence.parent[number], Segment(1, number).name(SIZE)
        identity = read_first_page(data, name=name)
        check_segment(
            name, identity, system=system, segment_size=SIZE, length=len(data), major=evidence.major
        )
        check_pages(data, identity.address, magic=identity.magic, name=name)


def test_a_forks_segment_is_read_from_the_child_and_joins_the_parents_records(evidence: Evidence) -> None:
    assert evidence.path.timeline_of_segment(evidence.fork, SIZE) == 2
    inherited = [line for line in evidence.parent_lines if line.lsn < evidence.path.forks[0].switch]
    numbers = range(min(evidence.parent), max(evidence.child) + 1)
    pieces = [(number, pages) for number in numbers if (pages := evidence.on_path(number)) is not None]
    found = as_lines(list(Walk(iter(pieces), segment_size=SIZE)))
    own = [line for line in evidence.child_lines if line.lsn >= evidence.path.forks[0].switch]
    assert found == without_words(inherited + own)
    scan, _ = scan_segment(Segment(2, evidence.fork), evidence.on_path, segment_size=SIZE)
    assert (scan.first, scan.ending) == (evidence.child_lines[0].lsn, Ending.WHOLE)
    assert inherited[-1].lsn // SIZE == evidence.fork


def test_damage_never_raises_and_never_makes_a_record(evidence: Evidence) -> None:
    chance = random.Random(evidence.major)
    true = without_words(evidence.parent_lines)
    numbers = range(min(evidence.parent), evidence.parent_lines[-1].lsn // SIZE + 1)
    for _ in range(25):
        first = chance.choice(numbers)
        pages = {n: bytearray(evidence.parent[n]) for n in range(first, first + 3) if n in evidence.parent}
        for _ in range(chance.randrange(1, 5)):
            chance.choice(list(pages.values()))[chance.randrange(SIZE)] ^= 1 << chance.randrange(8)
        cut = chance.choice(list(pages))
        if chance.random() < 0.5:
            pages = {n: data for n, data in pages.items() if n <= cut}
            del pages[cut][chance.randrange(SIZE) :]
        damaged = Walk(iter(pages.items()), segment_size=SIZE)
        records = as_lines(list(damaged))
        if records:
            at = true.index(records[0])
            assert records == true[at : at + len(records)]


def test_the_compiled_scan_says_what_the_plain_one_says(evidence: Evidence) -> None:
    """On real WAL of both timelines, whole, damaged and cut."""
    for crc in CrcPolicy:
        scanned_alike(evidence.parent, segment_size=SIZE, crc=crc)
    scanned_alike(evidence.child, timeline=2, segment_size=SIZE)
    chance = random.Random(evidence.major)
    for _ in range(20):
        first = chance.choice(list(evidence.parent))
        pages = {n: bytearray(evidence.parent[n]) for n in range(first, first + 2) if n in evidence.parent}
        for _ in range(chance.randrange(1, 5)):
            chance.choice(list(pages.values()))[chance.randrange(SIZE)] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            del pages[first][chance.randrange(SIZE) :]
        damaged = {number: bytes(data) for number, data in pages.items()}
        scanned_alike(damaged, segment_size=SIZE, crc=chance.choice(list(CrcPolicy)))
