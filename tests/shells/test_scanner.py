"""Scanning while archiving: the last record may go on in a file that is still being written."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.core.test_commits import NOON
from tests.kit.wal import MIB, SYSTEM, WalWriter
from walarchiver.core.commits import scan_segment
from walarchiver.core.scan import Ending
from walarchiver.core.segment import Segment, SegmentBytes, parse_wal_file
from walarchiver.format.scans import ScanRecord, segment_scan
from walarchiver.mappedscan import Job, scan_apart
from walarchiver.offered import ClusterFacts, Offered, open_offered
from walarchiver.scanner import MappingScanner, Scanner, Scans, scanner_for

SEGMENT = Segment(1, 3)
SIZE = SegmentBytes(MIB)
NAME, NEXT = "000000010000000000000003", "000000010000000000000004"


def crossing(length: int = 3000) -> WalWriter:
    wal = WalWriter(3)
    wal.commit(NOON)
    wal.pad_to(1000)
    wal.filler(length)
    wal.commit(NOON + 1)
    return wal


@pytest.fixture(params=[Scanner, MappingScanner])
def scanner(request: pytest.FixtureRequest) -> Scans:
    """In memory, and in a process of its own: both tell the same."""
    made: Scans = request.param(SIZE)
    return made


def told(scanner: Scans, offered: Offered) -> ScanRecord | None:
    """As the archiver asks."""
    scan = scanner.scan(offered)
    return None if scan is None else scanner.record(scan, offered)


def recorded(scanner: Scans, pages: bytes, folder: Path) -> ScanRecord | None:
    offered = offered_as(scanner, NAME, pages, folder)
    with offered.handle:
        record = told(scanner, offered)
    assert record is None or (record.name, record.digest) == (NAME, offered.hasher.hexdigest())
    return record


def offered_as(scanner: Scans, name: str, pages: bytes, folder: Path) -> Offered:
    """A file that was read to its end and is still open."""
    (folder / name).write_bytes(pages)
    facts = ClusterFacts("main", SYSTEM, 15, SIZE)
    offered = open_offered(facts, parse_wal_file(name, SIZE), folder / name)
    offered.digest(keep=scanner.keeps)
    return offered


def test_a_scan_goes_into_the_ledger_as_it_is_made(scanner: Scans, tmp_path: Path) -> None:
    wal = WalWriter(3)
    wal.commit(NOON)
    wal.switch()
    record = recorded(scanner, wal.segments()[3], tmp_path)
    assert record is not None
    again = segment_scan(record, SEGMENT, system=wal.system, magic=0xD110)
    assert again == scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]


def test_a_record_is_followed_into_the_file_that_is_being_written(scanner: Scans, tmp_path: Path) -> None:
    wal = crossing()
    live = wal.segments()[4]
    (tmp_path / NEXT).write_bytes(live)
    record = recorded(scanner, wal.segments()[3], tmp_path)
    assert record is not None
    whole = scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]
    assert whole.ending is Ending.WHOLE
    assert segment_scan(record, SEGMENT, system=wal.system, magic=0xD110) == whole


@pytest.mark.parametrize(
    "live", ["missing", "empty", "recycled", "not yet written", "half written", "foreign"]
)
def test_what_does_not_complete_the_record_leaves_the_segment_unscanned(
    scanner: Scans, tmp_path: Path, live: str
) -> None:
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
    assert recorded(scanner, wal.segments()[3], tmp_path) is None


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


def test_damage_in_the_segment_itself_is_told(scanner: Scans, tmp_path: Path) -> None:
    wal = crossing()
    pages = bytearray(wal.segments()[3])
    pages[200] ^= 1
    record = recorded(scanner, bytes(pages), tmp_path)
    assert record is not None
    assert record.ending == "bad"
    assert "checksum" in record.problem


@pytest.mark.parametrize("lies_there", ["unchanged", "changed", "not at all"])
def test_a_segment_that_had_to_wait_is_scanned_with_the_next_one(
    scanner: Scans, tmp_path: Path, lies_there: str
) -> None:
    wal = crossing()
    first = offered_as(scanner, NAME, wal.segments()[3], tmp_path)
    with first.handle:
        assert told(scanner, first) is None, "the next file is not there yet"
    second = offered_as(scanner, NEXT, wal.segments()[4], tmp_path)
    second.handle.close()
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

    scanner = Scanner(SIZE)
    offered = offered_as(scanner, NAME, crossing().segments()[3], tmp_path)
    offered.handle.close()
    scan = scanner.scan(offered)
    assert scan is not None
    monkeypatch.setattr("walarchiver.scanner.scan_segment", fail)
    assert scanner.scan(offered) is None
    assert scanner.record(scan, offered) is None


@pytest.mark.parametrize("how", ["cut off", "changed", "cut off while it is read"])
def test_a_mapped_file_that_is_not_what_was_archived_has_no_scan_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    scanner = MappingScanner(SIZE)
    offered = offered_as(scanner, NAME, crossing().segments()[3], tmp_path)
    with offered.handle:
        match how:
            case "cut off":
                os.truncate(tmp_path / NAME, MIB // 2)
            case "changed":
                (tmp_path / NAME).write_bytes(crossing(3001).segments()[3])
            case _:
                monkeypatch.setenv("PYTHONPATH", str(cutting(tmp_path)))
                job = Job(offered.handle.fileno(), NAME, MIB, offered.hasher.hexdigest(), "", 0)
                with pytest.raises(RuntimeError, match=f"ended with {-signal.SIGBUS}"):
                    scan_apart(job)
        assert told(scanner, offered) is None
    assert (tmp_path / NAME).stat().st_size == (MIB if how == "changed" else MIB // 2)


def cutting(folder: Path) -> Path:
    """A folder whose sitecustomize cuts the file off as soon as a process has mapped it."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import mmap, os\n"
        "class Cut(mmap.mmap):\n"
        "    def __init__(self, *args, **more):\n"
        f"        os.truncate({str(folder / NAME)!r}, {MIB // 2})\n"
        "mmap.mmap = Cut\n"
    )
    return folder / "site"


@pytest.mark.parametrize("mib", [1, 16, 64, 128, 1024])
def test_every_size_of_segments_is_scanned_and_only_small_ones_are_kept(mib: int) -> None:
    scanner = scanner_for(SegmentBytes(mib * MIB))
    assert scanner is not None
    assert scanner.keeps == (mib <= 64)
