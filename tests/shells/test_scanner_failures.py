"""A scan that cannot be made stops nothing: what fails, waits too long or is not compiled has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.wal import MIB
from tests.shells.test_scanner import NAME, NEXT, SIZE, crossing, offered_as
from walarchiver import scanner as scanner_module
from walarchiver.core.segment import Segment
from walarchiver.scanner import OPEN_MAX, Scanner, Waiting, scanner_for


def fail(*_args: object, **_more: object) -> None:
    raise ZeroDivisionError


def test_without_the_compiled_part_nothing_is_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_module, "COMPILED", False)
    assert scanner_for(SIZE) is None


def test_only_a_few_segments_wait_for_the_next_one_and_the_oldest_goes() -> None:
    waiting = Waiting()
    for number in range(OPEN_MAX + 2):
        waiting.add(Segment(1, number), f"digest {number}")
    assert [waiting.take(Segment(1, number)) for number in (0, 1)] == [None, None]
    assert waiting.take(Segment(1, 2)) == "digest 2"
    assert waiting.take(Segment(1, OPEN_MAX + 1)) == f"digest {OPEN_MAX + 1}"
    assert len(waiting.digests) == OPEN_MAX - 2


def test_a_failure_while_the_last_record_is_followed_is_no_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner, wal = Scanner(SIZE), crossing()
    offered = offered_as(scanner, NAME, wal.segments()[3], tmp_path)
    with offered.handle:
        scan = scanner.scan(offered)
        assert scan is not None
        assert scanner.waits(scan)
        (tmp_path / NEXT).write_bytes(wal.segments()[4])
        with monkeypatch.context() as patched:
            patched.setattr(scanner_module, "scan_segment", fail)
            assert scanner.record(scan, offered) is None
        assert scanner.record(scan, offered) is not None, "and nothing is left of the failure"


def test_a_failure_when_the_next_one_came_is_no_scan_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner, wal = Scanner(SIZE), crossing()
    first = offered_as(scanner, NAME, wal.segments()[3], tmp_path)
    with first.handle:
        scan = scanner.scan(first)
        assert scan is not None
        assert scanner.record(scan, first) is None
    second = offered_as(scanner, NEXT, wal.segments()[4], tmp_path)
    second.handle.close()
    with monkeypatch.context() as patched:
        patched.setattr(scanner_module, "scan_segment", fail)
        assert scanner.late(second) is None
    assert scanner.late(second) is None


def test_a_record_that_goes_on_behind_the_next_file_has_no_scan(tmp_path: Path) -> None:
    scanner, wal = Scanner(SIZE), crossing(2 * MIB)
    first = offered_as(scanner, NAME, wal.segments()[3], tmp_path)
    with first.handle:
        scan = scanner.scan(first)
        assert scan is not None
        assert scanner.record(scan, first) is None
    second = offered_as(scanner, NEXT, wal.segments()[4], tmp_path)
    second.handle.close()
    assert scanner.late(second) is None
