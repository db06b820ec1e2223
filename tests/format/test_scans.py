"""A scan comes back from its ledger record as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.test_commits import NOON
from tests.kit.wal import MIB, TRANSACTION, XLOG, WalWriter, main_data
from walarchiver.core.commits import scan_segment
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment
from walarchiver.format.codec import record_from_json, record_to_json
from walarchiver.format.scans import LISTED_MAX, ScanRecord, scan_record, segment_scan

NAME, DIGEST = "000000010000000000000003", "7" * 64
SEGMENT = Segment(1, 3)


def scanned(wal: WalWriter) -> SegmentScan:
    return scan_segment(SEGMENT, wal.segments().get, segment_size=MIB)[0]


def written() -> WalWriter:
    wal = WalWriter(3)
    wal.commit(NOON + 5)
    wal.record(XLOG, 0x70, main_data(bytes(8) + b"mark".ljust(64, b"\0")))
    wal.record(XLOG, 0x60, main_data(bytes(24)))
    wal.record(XLOG, 0x10, main_data(bytes(80)))
    wal.record(TRANSACTION, 0x40, main_data(bytes(8)), xid=7)
    wal.abort(NOON)
    wal.switch()
    return wal


def through_the_ledger(scan: SegmentScan) -> SegmentScan | None:
    record = scan_record(scan, name=NAME, digest=DIGEST)
    assert record is not None
    again = record_from_json(record_to_json(record))
    assert isinstance(again, ScanRecord)
    return segment_scan(again, SEGMENT, system=scan.system, magic=scan.magic)


def test_a_scan_comes_back_whole() -> None:
    scan = scanned(written())
    assert scan.restore_points
    assert scan.parameter_changes
    assert scan.checkpoints
    assert scan.prepared
    assert scan.first_event != scan.last_event
    assert through_the_ledger(scan) == scan


def test_an_empty_and_a_damaged_segment_come_back_as_they_are() -> None:
    for scan in (
        replace(scanned(written()), first=None, first_prev=None, last=None, records=0),
        replace(scanned(written()), ending=Ending.BAD, problem="record at 0/300028 fails its checksum"),
        replace(scanned(written()), overwritten=(Lsn(0x300028),)),
    ):
        assert through_the_ledger(scan) == scan


def test_what_is_not_final_or_not_short_gets_no_record() -> None:
    scan = scanned(written())
    assert scan_record(replace(scan, ending=Ending.OPEN), name=NAME, digest=DIGEST) is None
    assert (
        scan_record(replace(scan, overwritten=(Lsn(8),) * LISTED_MAX), name=NAME, digest=DIGEST) is not None
    )
    many = replace(scan, overwritten=(Lsn(8),) * (LISTED_MAX + 1))
    assert scan_record(many, name=NAME, digest=DIGEST) is None


@pytest.mark.parametrize("change", [{"ending": "torn"}, {"ending": ""}])
def test_a_word_of_a_later_release_means_that_the_segment_is_opened(change: dict[str, str]) -> None:
    record = scan_record(scanned(written()), name=NAME, digest=DIGEST)
    assert record is not None
    assert segment_scan(replace(record, **change), SEGMENT, system=1, magic=0xD110) is None
    odd = replace(record, prepared=(replace(record.prepared[0], event="split"),))
    assert segment_scan(odd, SEGMENT, system=1, magic=0xD110) is None
