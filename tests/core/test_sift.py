"""The compiled half of `find` tells exactly what the plain walk tells, whatever the bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.twins import joined, walked_alike
from tests.kit.wal import MIB, TRANSACTION, XLOG, Placed, WalWriter, main_data
from walarchiver.core import sift as sifting
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import RelFile
from walarchiver.core.scan import Ending, EventKind
from walarchiver.core.sift import sift
from walarchiver.core.skim import COMPILED
from walarchiver.core.stretch import sift_segment
from walarchiver.core.touch import Ended, Rows, Touches, Watch
from walarchiver.core.touches import ALWAYS, ROWS
from walarchiver.core.walpage import read_first_page
from walarchiver.core.walrecord import record_kind

pytestmark = pytest.mark.skipif(not COMPILED, reason="the compiled part is not built here")

ROOT = Path(__file__).resolve().parents[2]
NOON = 1_795_348_800_000_000
DATABASE, STORAGE, RELMAP, STANDBY, HEAP2, HEAP, BTREE = 4, 2, 7, 8, 9, 10, 11
INSERT, DELETE, UPDATE, TRUNCATE, HOT_UPDATE, LOCK, MULTI_INSERT = 0x00, 0x10, 0x20, 0x30, 0x40, 0x60, 0x50
TABLE, PARTITION, OTHER = RelFile(1663, 5, 20), RelFile(1663, 5, 21), RelFile(1663, 5, 30)
CATALOG = RelFile(1663, 5, 1259)
WATCH = Watch(frozenset({TABLE, PARTITION}), {5: CATALOG})
PAYLOAD = b"r" * 30


def block(
    file: RelFile | None, data: bytes = b"", *, number: int = 0, image: int = 0, bits: int = 0x01
) -> tuple[bytes, bytes]:
    """A block reference and its data; `file` None: the same as the one before."""
    flags = (0x20 if data else 0) | (0x10 if image else 0) | (0 if file else 0x80)
    head = struct.pack("<BBH", number, flags, len(data))
    if image:
        head += struct.pack("<HHB", image, 40, bits)
        if bits & 0x01 and bits & 0x1C:
            head += struct.pack("<H", 3000)
    return head + (file.packed() if file else b"") + struct.pack("<I", 7), b"i" * image + data


def body(*blocks: tuple[bytes, bytes], main: bytes = b"", extra: bytes = b"") -> bytes:
    """Blocks, an origin or top-level id, main data."""
    head = main_data(main)
    size = 5 if head[:1] == b"\xfe" else 2
    return (
        b"".join(one for one, _ in blocks)
        + extra
        + head[:size]
        + b"".join(d for _, d in blocks)
        + head[size:]
    )


def insert(file: RelFile, **more: int) -> bytes:
    return body(block(file, PAYLOAD, **more), main=b"\1\0\0")


def delete(file: RelFile, flags: int = 0) -> bytes:
    return body(block(file), main=struct.pack("<IHBB", 0, 3, 0, flags))


def multi(file: RelFile, count: int, size: int = 400) -> bytes:
    return body(block(file, b"m" * size), main=struct.pack("<BBH", 0, 0, count) + bytes(2 * count))


def update(file: RelFile, old: RelFile | None = None) -> bytes:
    blocks = [block(file, PAYLOAD)] + ([block(old, number=1)] if old else [])
    return body(*blocks, main=struct.pack("<IHBBIH", 0, 2, 0, 0, 0, 4))


def ended(wal: WalWriter, xid: int, *, xinfo: int | None = None, more: bytes = b"", kind: int = 0x00) -> None:
    main = struct.pack("<q", (NOON - 946_684_800_000_000) + wal.at)
    if xinfo is not None:
        main, kind = main + struct.pack("<I", xinfo) + more, kind | 0x80
    wal.record(TRANSACTION, kind, main_data(main), xid=xid)


def some_of_everything(wal: WalWriter, turn: int) -> None:
    """Records of every kind that `find` looks at, in every form, and some that it passes."""
    xid = 1000 + 20 * turn
    wal.record(HEAP, INSERT, insert(TABLE), xid=xid)
    wal.record(HEAP, INSERT, insert(TABLE, image=900 + turn * 37 % 7000), xid=xid)
    wal.record(HEAP, HOT_UPDATE, update(TABLE), xid=xid)
    wal.record(HEAP, INSERT, insert(OTHER), xid=xid)
    ended(wal, xid)
    wal.record(HEAP, DELETE, delete(TABLE), xid=xid + 1)
    wal.record(HEAP, DELETE, delete(PARTITION), xid=xid + 1)
    wal.record(HEAP, DELETE | 0x80, delete(TABLE, 0x10), xid=xid + 1)
    ended(wal, xid + 1, xinfo=0x20000000)
    wal.record(HEAP2, MULTI_INSERT, multi(TABLE, 7, 100 + turn * 911 % 9000), xid=xid + 2)
    wal.record(HEAP, INSERT | 0x80, insert(TABLE), xid=xid + 2)
    wal.record(HEAP, DELETE, delete(TABLE, 0x08), xid=xid + 2)
    ended(wal, xid + 2, kind=0x20)
    wal.record(HEAP, UPDATE, update(PARTITION, PARTITION), xid=xid + 3)
    wal.record(HEAP, INSERT, insert(TABLE, image=3000, bits=0x05), xid=xid + 4)
    ended(wal, xid + 3, xinfo=0x02, more=struct.pack("<II", 1, xid + 4))
    wal.record(STORAGE, 0x10, main_data(struct.pack("<IIIi", *OTHER, 0)), xid=xid + 5)
    wal.record(HEAP, INSERT, insert(TABLE), xid=xid + 5)
    wal.record(HEAP, UPDATE, update(CATALOG), xid=xid + 5)
    wal.record(HEAP, INSERT, insert(PARTITION), xid=xid + 5)
    wal.record(HEAP, DELETE, delete(CATALOG), xid=xid + 5)
    ended(wal, xid + 5, xinfo=0x04, more=struct.pack("<I", 2) + OTHER.packed() + RelFile(1, 9, 9).packed())
    wal.record(HEAP, TRUNCATE, main_data(struct.pack("<IIBxxxI", 5, 1, 0, 44)), xid=xid + 6)
    wal.record(STORAGE, 0x20, main_data(struct.pack("<IIIIi", 0, *TABLE, 7)), xid=xid + 6)
    wal.record(STANDBY, 0x10, main_data(struct.pack("<iiiIII", 0, 0, 0, xid + 7, xid, xid)))
    wal.record(HEAP, LOCK, body(block(TABLE), main=bytes(8)), xid=xid + 6)
    ended(wal, xid + 6, xinfo=0x08, more=struct.pack("<I", 0))
    wal.record(
        HEAP, INSERT, body(block(TABLE, PAYLOAD), main=b"\1\0\0", extra=b"\xfc" + bytes(4)), xid=xid + 7
    )
    wal.record(HEAP, INSERT, body(block(TABLE, PAYLOAD), main=b"\1\0\0", extra=b"\xfd\1\0"), xid=xid + 7)
    wal.record(TRANSACTION, 0x00, b"\xfd\1\0" + main_data(struct.pack("<q", turn)), xid=xid + 7)


def pass_by(wal: WalWriter, length: int) -> None:
    """A record of an index."""
    wal.record(BTREE, 0x00, main_data(b"f" * length), xid=700)


def busy(number: int = 3) -> WalWriter:
    wal = WalWriter(number)
    for turn in range(90):
        some_of_everything(wal, turn)
        pass_by(wal, 40 + turn * 977 % 9000)
        if turn == 40:
            wal.tear(30_000)
        if turn in (70, 85):
            wal.switch()
    wal.record(RELMAP, 0, main_data(struct.pack("<I", 5)))
    wal.record(DATABASE, 0x20, main_data(struct.pack("<II", 5, 0)), xid=9)
    wal.record(XLOG, 0x00, main_data(bytes(88)))
    pass_by(wal, 3 * MIB // 2)
    wal.record(HEAP, DELETE, delete(TABLE), xid=8)
    ended(wal, 8)
    return wal


BUSY = busy()
BUSY_BYTES = b"".join(BUSY.segments().values())
FIRST = min(BUSY.segments())


def segments_of(content: bytes) -> dict[int, bytes]:
    return {FIRST + at // MIB: content[at : at + MIB] for at in range(0, len(content), MIB)}


def sifted(segments: dict[int, bytes]) -> Iterator[Touches]:
    """What the compiled part alone tells."""
    for number, pages in segments.items():
        passed = sift_segment(number, pages, segment_size=MIB, watch=WATCH)
        yield from passed.found if passed else ()


def test_the_compiled_part_passes_nearly_all_of_plain_wal() -> None:
    stretch, found = walked_alike(segments_of(BUSY_BYTES), WATCH)
    assert stretch.ending is Ending.ZERO
    alone = joined(sifted(segments_of(BUSY_BYTES)))
    assert len(alone.ends) > 0.7 * len(found.ends) > 400  # behind the torn record the walk goes on
    assert len(alone.touches) > 0.7 * len(found.touches)
    assert sum(len(one.rows.xids) for one in sifted(segments_of(BUSY_BYTES))) > 100


def test_rows_are_counted_by_what_the_records_say() -> None:
    wal = WalWriter(3)
    some_of_everything(wal, 0)
    wal.switch()
    _stretch, found = walked_alike(wal.segments(), WATCH)
    rows = {xid: touch.rows for xid, touch in found.touches.items()}
    assert rows == {
        1000: {TABLE: Rows(2, 1, 0)},
        1001: {TABLE: Rows(0, 1, 1), PARTITION: Rows(0, 0, 1)},
        1002: {TABLE: Rows(7, 0, 0)},
        1003: {PARTITION: Rows(0, 1, 0)},
        1004: {TABLE: Rows(1, 0, 0)},
        1005: {TABLE: Rows(1, 0, 0), PARTITION: Rows(1, 0, 0)},
        1006: {},
        1007: {TABLE: Rows(2, 0, 0)},
    }
    commit = next(end for end in found.ends if isinstance(end, Ended) and end.xid == 1003)
    assert (commit.kind, commit.subxids) == (EventKind.COMMIT, (1004,))
    steps = found.touches[1005].steps
    assert found.touches[1005].copies == [(steps[0].lsn, TABLE, 1), (steps[1].lsn, PARTITION, 1)]


@pytest.mark.parametrize("slice_bytes", [8192, 3 * 8192, MIB // 2])
def test_a_segment_in_slices_tells_the_same(slice_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifting, "SLICE_BYTES", slice_bytes)
    walked_alike(segments_of(BUSY_BYTES), WATCH)


@pytest.mark.parametrize(
    "watch",
    [
        Watch(frozenset(), {}),
        Watch(frozenset({OTHER}), {}),
        Watch(frozenset({TABLE, CATALOG}), {5: CATALOG}),
        Watch(frozenset(), {5: CATALOG}),
        Watch(frozenset(RelFile(1663, 5, number) for number in range(20, 5000)), {5: CATALOG, 6: TABLE}),
    ],
)
def test_whatever_is_watched_both_tell_the_same(watch: Watch) -> None:
    walked_alike(segments_of(BUSY_BYTES), watch)


@pytest.mark.parametrize("major", [14, 15, 16, 17, 18])
@pytest.mark.parametrize("bits", range(32))
def test_images_of_every_form_are_read_alike(major: int, bits: int) -> None:
    wal = WalWriter(3, major=major)
    hole = bits & 1 and bits & (0x02 if major < 15 else 0x1C)
    head = struct.pack("<BBHHHB", 0, 0x10, 0, 50, 40, bits) + (b"\1\0" if hole else b"")
    head += TABLE.packed() + struct.pack("<I", 7)
    wal.record(HEAP, INSERT, body((head, b"i" * 50), main=b"\1\0\0"), xid=7)
    wal.commit(NOON, xid=7)
    wal.switch()
    stretch, found = walked_alike(wal.segments(), WATCH)
    assert (stretch.ending, found.touches[7].rows) == (Ending.WHOLE, {TABLE: Rows(inserted=1)})


def odd_bodies() -> Iterator[bytes]:
    """What no server writes where a row changes, or an end."""
    usual = delete(TABLE)
    yield from (usual[:length] for length in range(len(usual)))
    yield usual + b"x"
    yield b"\1" + usual[1:]  # block 1 stands first
    yield b"\x21" + usual[1:]
    yield body(block(None))
    yield usual[:1] + b"\x80" + usual[2:]
    yield b"\xfd\1\0" + usual
    yield body(block(OTHER), block(TABLE, number=1), main=bytes(8))
    yield body(block(TABLE), block(None, number=1), block(OTHER, number=2), main=bytes(8))
    yield body(block(TABLE), main=bytes(300))
    yield body(block(TABLE), main=bytes(3))
    yield main_data(bytes(8))
    yield main_data(bytes(9))
    yield b"\xfd\1\0\xfc" + bytes(4) + main_data(bytes(8))
    yield b"\xfe" + struct.pack("<I", 8) + bytes(8)
    yield b"\xfe" + struct.pack("<I", 2**32 - 1) + bytes(8)
    yield main_data(bytes(8) + struct.pack("<I", 0x20))
    yield main_data(bytes(8) + struct.pack("<I", 0x16))
    yield main_data(bytes(300))


@pytest.mark.parametrize(
    ("rmid", "info"),
    [
        *((HEAP, operation) for operation in (INSERT, DELETE, UPDATE, TRUNCATE, HOT_UPDATE)),
        (HEAP2, MULTI_INSERT),
        *((TRANSACTION, operation | flag) for operation in (0x00, 0x10, 0x20, 0x30) for flag in (0, 0x80)),
        *((STORAGE, operation) for operation in (0x10, 0x20)),
        *((other, 0) for other in (RELMAP, DATABASE, XLOG)),
        (STANDBY, 0x10),
    ],
)
def test_odd_records_are_read_or_refused_alike(rmid: int, info: int) -> None:
    refused = 0
    for odd in odd_bodies():
        wal = WalWriter(3)
        wal.record(HEAP, DELETE, delete(TABLE), xid=7)
        wal.record(rmid, info, odd, xid=7)
        wal.record(HEAP, DELETE, delete(TABLE), xid=7)
        wal.commit(NOON, xid=7)
        wal.switch()
        stretch, found = walked_alike(wal.segments(), WATCH)
        refused += stretch.ending is Ending.BAD
        assert found.touches[7].rows[TABLE].deleted >= 1
    assert refused or rmid == RELMAP


@given(st.lists(st.integers(0, len(BUSY_BYTES) * 8 - 1), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_flipped_bits_are_read_alike(bits: list[int]) -> None:
    content = bytearray(BUSY_BYTES)
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    walked_alike(segments_of(bytes(content)), WATCH)


@given(st.integers(0, len(BUSY_BYTES)))
@example(0)
@example(100)
@settings(max_examples=15, deadline=None)
def test_cut_input_is_read_alike(cut: int) -> None:
    walked_alike(segments_of(BUSY_BYTES[:cut]) or {FIRST: b""}, WATCH)


@given(st.binary(min_size=1, max_size=400), st.integers(0, len(BUSY_BYTES) - 400))
@settings(max_examples=20, deadline=None)
def test_overwritten_stretches_are_read_alike(junk: bytes, at: int) -> None:
    walked_alike(segments_of(BUSY_BYTES[:at] + junk + BUSY_BYTES[at + len(junk) :]), WATCH)


def small() -> WalWriter:
    wal = WalWriter(3)
    for turn in range(2):
        some_of_everything(wal, turn)
        pass_by(wal, 9000)
    return wal


SMALL = small()
SMALL_BYTES = SMALL.segments()[3]


@pytest.mark.parametrize("record", SMALL.placed, ids=lambda placed: f"{placed.start:x}")
def test_every_changed_byte_of_a_small_record_is_read_alike(record: Placed) -> None:
    """Header and body: checksums are not looked at, so nothing else refuses it."""
    chance = random.Random(record.start)
    for at in range(record.start - 3 * MIB, min(record.raw_end, record.start + 90) - 3 * MIB):
        content = bytearray(SMALL_BYTES)
        content[at] ^= 1 << chance.randrange(8)
        walked_alike({3: bytes(content)}, WATCH)


def test_a_walk_may_begin_at_any_record() -> None:
    pages = segments_of(BUSY_BYTES)[FIRST]
    identity = read_first_page(pages, name="it")
    starts = [one.start for one in BUSY.placed if one.raw_end < (FIRST + 1) * MIB]
    for start in starts[::97]:
        passed = sift(pages, identity, Lsn(FIRST * MIB), WATCH, start)
        assert passed is not None
        assert all(touch.first >= start for one in passed.found for touch in one.touches.values())
        assert passed.last >= start


def test_every_kind_that_the_walk_wants_has_its_action() -> None:
    for kind in range(1 << 16):
        assert bool(sifting._ACTIONS[kind]) == (kind in ALWAYS | ROWS)
    assert sifting._ACTIONS[record_kind(HEAP, LOCK)] == 0
