"""Scanning while archiving: the last record may go on in a file that is still being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.test_commits import NOON
from tests.kit.wal import MIB, SYSTEM, WalWriter
from walarchiver.core.commits import scan_segment
from walarchiver.core.scan import Ending
from walarchiver.core.segment import Segment, SegmentBytes, parse_wal_file
from walarchiver.format.scans import ScanRecord, segment_scan
from walarchiver.offered import ClusterFacts, Offered, open_offered
from walarchiver.scanner import Scanner

SEGMENT = Segment(1, 3)
SCANNER = Scanner(SegmentBytes(MIB))
NAME, NEXT = "000000010000000000000003", "000000010000000000000004"


def crossing(length: int = 3000) -> WalWriter:
    wal = WalWriter(3)
    wal.commit(NOON)
    wal.pad_to(1000)
    wal.filler(length)
    wal.commit(NOON + 1)
    return wal


def recorded(pages: bytes, folder: Path) -> ScanRecord | None:
    path = folder / NAME
    path.write_bytes(pages)
    file = parse_wal_file(NAME, SCANNER.size)
    offered = open_offered(ClusterFacts("main", SYSTEM, 15, SCANNER.size), file, path, keep=True)
    with offered.handle:
        digest, _ = offered.digest()
        scan = SCANNER.scan(offered)
        assert scan is not None
        record = SCANNER.record(scan, offered)
    assert record is None or (record.name, record.digest) == (NAME, digest)
    return record


def test_a_scan_goes_into_the_ledger_as_it_is_made(tmp_path: Path) -> None:
    wal = WalWriter(3)
    wal.commit(NOON)
    wal.switch()
    record = recorded(wal.segments()[3], tmp_path)
    assert record is not None
    again = segment_scan(record, SEGMENT, system=wal.system, magic=0xD110)
    assert again == scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]


def test_a_record_is_followed_into_the_file_that_is_being_written(tmp_path: Path) -> None:
    wal = crossing()
    live = wal.segments()[4]
    (tmp_path / NEXT).write_bytes(live)
    record = recorded(wal.segments()[3], tmp_path)
    assert record is not None
    whole = scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]
    assert whole.ending is Ending.WHOLE
    assert segment_scan(record, SEGMENT, system=wal.system, magic=0xD110) == whole


@pytest.mark.parametrize(
    "live", ["missing", "empty", "recycled", "not yet written", "half written", "foreign"]
)
def test_what_does_not_complete_the_record_leaves_the_segment_unscanned(tmp_path: Path, live: str) -> None:
    """Never damage: the next file is not archived, and may be complete in the next millisecond."""
    wal = crossing()
    good = bytearray(wal.segments()[4])
    contents = {
        "empty": b"",
        "recycled": recycled(),
        "not yet written": bytes(MIB),
        "half written": bytes(good[:1000]) + bytes(MIB - 1000),
        "foreign": crossing_of_another().segments()[4],
    }
    if live != "missing":
        (tmp_path / NEXT).write_bytes(contents[live])
    assert recorded(wal.segments()[3], tmp_path) is None


def recycled() -> bytes:
    """A file of an older address under the next name, as PostgreSQL keeps them ready."""
    old = WalWriter(2)
    old.filler(2000)
    return old.segments()[2]


def crossing_of_another() -> WalWriter:
    wal = WalWriter(3, system=77)
    wal.commit(NOON)
    wal.pad_to(1000)
    wal.filler(3000)
    return wal


def test_damage_in_the_segment_itself_is_told(tmp_path: Path) -> None:
    wal = crossing()
    pages = bytearray(wal.segments()[3])
    pages[200] ^= 1
    record = recorded(bytes(pages), tmp_path)
    assert record is not None
    assert record.ending == "bad"
    assert "checksum" in record.problem


def offered_as(name: str, pages: bytes, folder: Path) -> Offered:
    (folder / name).write_bytes(pages)
    facts = ClusterFacts("main", SYSTEM, 15, SCANNER.size)
    offered = open_offered(facts, parse_wal_file(name, SCANNER.size), folder / name, keep=True)
    with offered.handle:
        offered.digest()
    return offered


@pytest.mark.parametrize("lies_there", ["unchanged", "changed", "not at all"])
def test_a_segment_that_had_to_wait_is_scanned_with_the_next_one(tmp_path: Path, lies_there: str) -> None:
    wal, scanner = crossing(), Scanner(SCANNER.size)
    first = offered_as(NAME, wal.segments()[3], tmp_path)
    scan = scanner.scan(first)
    assert scan is not None
    assert scanner.record(scan, first) is None, "the next file is not there yet"
    second = offered_as(NEXT, wal.segments()[4], tmp_path)
    if lies_there == "changed":
        (tmp_path / NAME).write_bytes(bytes(MIB))
    elif lies_there == "not at all":
        (tmp_path / NAME).unlink()
    late = scanner.late(second)
    if lies_there == "unchanged":
        assert late is not None
        assert late.digest == first.hasher.hexdigest()
        whole = scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]
        assert segment_scan(late, SEGMENT, system=wal.system, magic=0xD110) == whole
    else:
        assert late is None
    assert scanner.late(second) is None, "once is enough"


def test_a_scan_that_fails_is_no_scan_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise ZeroDivisionError

    path = tmp_path / NAME
    path.write_bytes(crossing().segments()[3])
    file = parse_wal_file(NAME, SCANNER.size)
    offered = open_offered(ClusterFacts("main", SYSTEM, 15, SCANNER.size), file, path, keep=True)
    with offered.handle:
        offered.digest()
        scan = SCANNER.scan(offered)
        assert scan is not None
        monkeypatch.setattr("walarchiver.scanner.scan_segment", fail)
        assert SCANNER.scan(offered) is None
        assert SCANNER.record(scan, offered) is None
