"""The compiled half of the scan says exactly what the plain one says, whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.twins import scanned_alike
from tests.kit.wal import MIB, TRANSACTION, XLOG, Placed, WalWriter, main_data
from walarchiver.core import skim
from walarchiver.core.commits import scan_segment
from walarchiver.core.segment import Segment
from walarchiver.core.walreader import CrcPolicy

pytestmark = pytest.mark.skipif(not skim.COMPILED, reason="the compiled part is not built here")

NOON = 1_795_348_800_000_000
BUSY_COMMITS = 400
COMMIT, PREPARE, COMMIT_PREPARED = 0x00, 0x10, 0x30


def busy() -> WalWriter:
    """Everything a scan knows, records over pages and files, a torn one, a switch."""
    wal = WalWriter(3)
    for index in range(BUSY_COMMITS):
        wal.filler(40 + index * 977 % 9_000)
        wal.commit(NOON + index * 1000 - (5_000_000 if index % 50 == 7 else 0), xid=1000 + index)
        if index % 9 == 0:
            wal.abort(NOON + index, xid=5000 + index)
    wal.tear(30_000)
    wal.filler(700)
    wal.commit(NOON + 10)
    wal.switch()
    wal.filler(2 * MIB)
    wal.commit(NOON + 20)
    wal.record(TRANSACTION, PREPARE, main_data(bytes(12)))  # too short to be one
    wal.commit(NOON + 30)
    return wal


BUSY = busy()
BUSY_BYTES = b"".join(BUSY.segments().values())
FIRST = min(BUSY.segments())


def segments_of(content: bytes) -> dict[int, bytes]:
    return {FIRST + at // MIB: content[at : at + MIB] for at in range(0, len(content), MIB)}


def test_there_is_something_to_pass() -> None:
    assert len(BUSY_BYTES) >= 4 * MIB
    skimmed = scanned_alike(segments_of(BUSY_BYTES))
    assert skimmed > BUSY_COMMITS


@pytest.mark.parametrize("slice_bytes", [8192, 3 * 8192, MIB // 2])
def test_a_scan_in_slices_is_the_same(slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As segments of more than 64 MB are scanned."""
    monkeypatch.setattr(skim, "SLICE_BYTES", slice_bytes)
    scanned_alike(segments_of(BUSY_BYTES))
    content = bytearray(BUSY_BYTES)
    content[MIB // 2 + 8192 * 3 + 1000] ^= 4
    scanned_alike(segments_of(bytes(content)), crc=CrcPolicy.ALL)


@given(st.lists(st.integers(0, len(BUSY_BYTES) * 8 - 1), min_size=1, max_size=4), st.sampled_from(CrcPolicy))
@settings(max_examples=25, deadline=None)
def test_flipped_bits_are_seen_alike(bits: list[int], crc: CrcPolicy) -> None:
    content = bytearray(BUSY_BYTES)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    scanned_alike(segments_of(bytes(content)), crc=crc)


def small() -> WalWriter:
    """A few pages with records of one page, of two, and of three."""
    wal = WalWriter(3)
    for index, length in enumerate((100, 9_000, 30, 20_000, 50)):
        wal.filler(length)
        wal.commit(NOON + index)
    return wal


SMALL = small()
SMALL_BYTES = SMALL.segments()[3]
SMALL_PAGES = SMALL.placed[-1].raw_end % MIB // 8192 + 1


def test_plain_wal_is_passed_whole() -> None:
    from walarchiver.core import _walskim

    found = _walskim.skim(SMALL_BYTES, 3 * MIB, 4 * MIB, 0xD110, 2, True, 0, 0, 0)
    assert found is not None
    assert (found[2], found[5]) == (len(SMALL.placed), SMALL.placed[-1].start - 3 * MIB)


@pytest.mark.parametrize("page", range(SMALL_PAGES))
def test_every_flipped_bit_of_a_page_header_is_seen_alike(page: int) -> None:
    for bit in range(page * 8192 * 8, (page * 8192 + (24 if page else 40)) * 8):
        content = bytearray(SMALL_BYTES)
        content[bit // 8] ^= 1 << bit % 8
        scanned_alike({3: bytes(content)}, crc=CrcPolicy.NONE)


@pytest.mark.parametrize("record", SMALL.placed, ids=lambda placed: f"{placed.start:x}")
def test_every_flipped_bit_of_a_record_header_is_seen_alike(record: Placed) -> None:
    for at in range(record.start - 3 * MIB, record.start - 3 * MIB + 20):
        for bit in range(8):
            content = bytearray(SMALL_BYTES)
            content[at] ^= 1 << bit
            scanned_alike({3: bytes(content)}, crc=CrcPolicy.NONE)


@given(st.integers(0, len(BUSY_BYTES)))
@example(FIRST)
@settings(max_examples=25, deadline=None)
def test_cut_input_is_seen_alike(cut: int) -> None:
    scanned_alike(segments_of(BUSY_BYTES[:cut]))


@given(st.binary(min_size=1, max_size=400), st.integers(0, len(BUSY_BYTES) - 400), st.sampled_from(CrcPolicy))
@settings(max_examples=25, deadline=None)
def test_overwritten_stretches_are_seen_alike(junk: bytes, at: int, crc: CrcPolicy) -> None:
    scanned_alike(segments_of(BUSY_BYTES[:at] + junk + BUSY_BYTES[at + len(junk) :]), crc=crc)


bodies: tuple[Callable[[bytes], bytes], ...] = (
    main_data,
    lambda main: b"\xfd\x01\x00" + main_data(main),  # a replication origin before it
    lambda main: b"\xfc\x01\x00\x00\x00" + main_data(main),  # a top-level xid before it
    lambda main: b"\xfe" + len(main).to_bytes(4, "little") + main,  # the long form
    lambda main: main_data(main) + b"x",  # a byte too many
    lambda main: b"\x21" + main_data(main),  # an unknown block id
)


@pytest.mark.parametrize("kind", [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x80, 0xB0])
@pytest.mark.parametrize("length", [0, 7, 8, 9, 23, 24, 31, 90])
def test_every_form_of_an_event_is_seen_alike(kind: int, length: int) -> None:
    for body in bodies:
        wal = WalWriter(3)
        wal.commit(NOON)
        wal.record(TRANSACTION, kind, body(bytes(length)), xid=9)
        wal.commit(NOON + 1)
        wal.filler(2 * MIB)
        scanned_alike(wal.segments())


FAR_AWAY = [2**63 - 1, -(2**63), 2**62 - 1, 1 - 2**62]


@pytest.mark.parametrize("first", FAR_AWAY)
@pytest.mark.parametrize("second", FAR_AWAY)
def test_times_at_the_ends_of_what_a_record_can_say_are_seen_alike(first: int, second: int) -> None:
    """Their differences are more than 64 bits hold."""
    wal = WalWriter(3)
    wal.commit(NOON)
    for time in (first, second, first):
        wal.record(TRANSACTION, COMMIT, main_data(time.to_bytes(8, "little", signed=True)), xid=9)
    wal.commit(NOON + 1)
    wal.switch()
    scanned_alike(wal.segments())


def test_what_is_rare_is_no_end_of_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints and restore points beside commits; and the same without the compiled part."""
    wal = WalWriter(3)
    wal.commit(NOON, xid=7)
    wal.record(XLOG, 0x70, main_data(bytes(72)))
    wal.record(XLOG, 0x10, main_data(bytes(88)))
    wal.commit(NOON + 1, xid=9)
    wal.switch()
    pages = wal.segments()
    assert scanned_alike(pages) == 5
    scan, _events = scan_segment(Segment(1, 3), pages.get, segment_size=MIB)
    assert (scan.min_xid, scan.max_xid, len(scan.restore_points), len(scan.checkpoints)) == (7, 9, 1, 1)
    monkeypatch.setattr(skim, "COMPILED", False)
    assert scan_segment(Segment(1, 3), pages.get, segment_size=MIB)[0] == scan
