"""What every ObjectStore must do, whatever is behind it (rules: walarchiver/ports.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.contracts.conftest import Subject
from tests.kit.chance import RealClock
from walarchiver.errors import KeyTaken, ObjectDamaged, UsageError

MIB = 1 << 20


def keys_of(subject: Subject, prefix: str, start_after: str = "") -> list[str]:
    return [found.key for found in subject.store.list_keys(prefix, start_after=start_after)]


def test_what_was_put_is_what_is_read(subject: Subject) -> None:
    subject.store.put_new("v1/c/1/wal/a", b"some bytes")
    assert subject.store.get("v1/c/1/wal/a", bytes_max=100) == b"some bytes"


def test_a_name_that_was_never_written_is_absent(subject: Subject) -> None:
    subject.store.put_new("v1/c/1/wal/a", b"x")
    for key in ("v1/c/1/wal/b", "v1/c/1/wal", "v1/c/1/wal/a/b", "v2/a"):
        assert subject.store.get(key, bytes_max=100) is None
        assert subject.store.get_range(key, start=0, length=10) is None


def test_a_name_is_never_written_twice(subject: Subject) -> None:
    subject.store.put_new("v1/REPO", b"first")
    for again in (b"first", b"second"):
        with pytest.raises(KeyTaken, match="v1/REPO"):
            subject.store.put_new("v1/REPO", again)
    assert subject.store.get("v1/REPO", bytes_max=100) == b"first"
    assert len(list(subject.store.list_versions("v1/REPO"))) == 1


def test_of_forty_creators_of_one_name_exactly_one_wins(subject: Subject) -> None:
    def create(number: int) -> bytes | None:
        body = b"creator %d" % number
        try:
            subject.store.put_new("v1/c/1/ledger/0000000000000001.json", body)
        except KeyTaken:
            return None
        return body

    with ThreadPoolExecutor(40) as pool:
        winners = [body for body in pool.map(create, range(40)) if body is not None]
    assert len(winners) == 1
    assert subject.store.get("v1/c/1/ledger/0000000000000001.json", bytes_max=100) == winners[0]
    assert len(list(subject.store.list_versions("v1/c/1/ledger/"))) == 1


@pytest.mark.parametrize("size", [0, 1, 15, 16, 4095, 4096, 4097, MIB - 1, MIB, 3 * MIB + 7])
def test_bodies_of_odd_sizes_come_back_whole(subject: Subject, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    subject.store.put_new("v1/body", body)
    assert subject.store.get("v1/body", bytes_max=size) == body
    assert [found.size for found in subject.store.list_keys("v1/body")] == [size]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: memoryview(b"x" + b + b"y")[1:-1]])
def test_any_kind_of_bytes_can_be_put(subject: Subject, make: type[bytes]) -> None:
    subject.store.put_new("v1/body", make(b"0123456789"))
    assert subject.store.get("v1/body", bytes_max=10) == b"0123456789"


def test_the_buffer_may_be_used_again_after_the_put(subject: Subject) -> None:
    buffer = bytearray(b"before")
    subject.store.put_new("v1/body", buffer)
    buffer[:] = b"after!"
    assert subject.store.get("v1/body", bytes_max=10) == b"before"


def test_a_part_of_64_mib_comes_back_whole(subject: Subject) -> None:
    body = (b"%015x\n" * (MIB // 16)) % tuple(range(MIB // 16)) * 64
    subject.store.put_new("v1/part", body)
    assert subject.store.get("v1/part", bytes_max=64 * MIB) == body


def test_a_body_longer_than_allowed_is_refused(subject: Subject) -> None:
    subject.store.put_new("v1/body", b"0123456789")
    with pytest.raises(ObjectDamaged, match="10 bytes"):
        subject.store.get("v1/body", bytes_max=9)


def test_a_range_is_cut_at_the_end_of_the_body(subject: Subject) -> None:
    subject.store.put_new("v1/body", b"0123456789")
    subject.store.put_new("v1/empty", b"")
    read = subject.store.get_range
    assert read("v1/body", start=0, length=4) == b"0123"
    assert read("v1/body", start=3, length=1) == b"3"
    assert read("v1/body", start=8, length=100) == b"89"
    assert read("v1/body", start=0, length=100) == b"0123456789"
    assert read("v1/body", start=10, length=1) == b""
    assert read("v1/body", start=5000, length=1) == b""
    assert read("v1/empty", start=0, length=1) == b""


def test_a_listing_is_in_key_order_and_complete(subject: Subject) -> None:
    names = [f"v1/c/1/wal/00000001/{log:08X}/{seg:024X}.oid" for log in (1, 0, 2) for seg in (5, 1, 3)]
    for name in names:
        subject.store.put_new(name, b"x")
    subject.store.put_new("v1/c/10/wal/00000001/00000000/x", b"x")
    assert keys_of(subject, "v1/c/1/") == sorted(names)
    assert keys_of(subject, "v1/c/1/wal/00000001/00000001/") == sorted(names[0:3])
    assert keys_of(subject, "v1/c/1/wal/00000001/0000000") == sorted(names)
    assert len(keys_of(subject, "")) == 10


def test_a_listing_starts_after_the_key_it_was_given(subject: Subject) -> None:
    names = [f"v1/c/1/ledger/{number:016x}.json" for number in range(5)]
    for name in names:
        subject.store.put_new(name, b"x")
    assert keys_of(subject, "v1/c/1/ledger/", names[2]) == names[3:]
    assert keys_of(subject, "v1/c/1/ledger/", names[4]) == []
    assert keys_of(subject, "v1/c/1/ledger/", "v1/c/1/ledger/0") == names
    assert keys_of(subject, "v1/c/1/ledger/", "v1/b") == names
    assert keys_of(subject, "v1/c/1/ledger/", "v2") == []
    versions = list(subject.store.list_versions("v1/c/1/ledger/", start_after=names[2]))
    assert [found.key for found in versions] == names[3:]


def test_a_prefix_may_end_inside_a_name(subject: Subject) -> None:
    for name in ("v1/history/00000002.aa", "v1/history/00000002.bb", "v1/history/00000003.aa", "v1/h"):
        subject.store.put_new(name, b"x")
    assert keys_of(subject, "v1/history/00000002.") == ["v1/history/00000002.aa", "v1/history/00000002.bb"]
    assert keys_of(subject, "v1/h") == [
        "v1/h",
        "v1/history/00000002.aa",
        "v1/history/00000002.bb",
        "v1/history/00000003.aa",
    ]


def test_nothing_below_a_prefix_is_an_empty_listing(subject: Subject) -> None:
    subject.store.put_new("v1/a/b", b"x")
    for prefix in ("v1/b/", "v1/a/b/", "v1/a/c", "v2/"):
        assert keys_of(subject, prefix) == []
        assert list(subject.store.list_versions(prefix)) == []


def test_more_than_one_page_is_listed_whole(subject: Subject) -> None:
    names = [f"v1/c/1/ledger/{number:016x}.json" for number in range(1105)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: subject.store.put_new(name, b"x"), names))
    assert keys_of(subject, "v1/c/1/ledger/") == names
    assert [found.key for found in subject.store.list_versions("v1/c/1/ledger/")] == names
    assert keys_of(subject, "v1/c/1/ledger/", names[1003]) == names[1004:]


def test_a_listing_shows_size_and_a_time_near_now(subject: Subject) -> None:
    subject.store.put_new("v1/a", b"12345")
    (found,) = subject.store.list_keys("v1/")
    assert (found.key, found.size, found.is_latest, found.is_delete_marker) == ("v1/a", 5, True, False)
    now = datetime.fromtimestamp(RealClock().now_us() / 1e6, tz=UTC)
    assert abs(found.modified - now) < timedelta(minutes=5)


def test_the_receipt_names_a_version_that_can_be_read(subject: Subject) -> None:
    receipt = subject.store.put_new("v1/a", b"bytes")
    (found,) = subject.store.list_versions("v1/a")
    assert (receipt.version_id is not None) == subject.versioned
    if subject.versioned:
        assert found.version_id == receipt.version_id
    assert subject.store.get("v1/a", version_id=found.version_id, bytes_max=10) == b"bytes"
    assert subject.store.get_range("v1/a", version_id=found.version_id, start=1, length=2) == b"yt"


def test_under_a_delete_marker_the_old_version_lives_on(subject: Subject) -> None:
    first = subject.store.put_new("v1/a", b"first").version_id
    subject.delete_latest("v1/a")
    assert subject.store.get("v1/a", bytes_max=10) is None
    assert keys_of(subject, "v1/") == []
    versions = list(subject.store.list_versions("v1/"))
    if not subject.versioned:
        assert versions == []
        return
    assert [(v.is_delete_marker, v.is_latest) for v in versions] == [(True, True), (False, False)]
    assert versions[1].version_id == first
    assert subject.store.get("v1/a", version_id=first, bytes_max=10) == b"first"
    assert subject.store.get("v1/a", version_id=versions[0].version_id, bytes_max=10) is None


def test_a_name_above_a_delete_marker_can_be_created_again(subject: Subject) -> None:
    """So a conditional create alone proves nothing in a bucket that others may delete in."""
    subject.store.put_new("v1/a", b"first")
    subject.delete_latest("v1/a")
    subject.store.put_new("v1/a", b"second")
    assert subject.store.get("v1/a", bytes_max=10) == b"second"
    assert len(list(subject.store.list_versions("v1/a"))) == (3 if subject.versioned else 1)


def test_a_deleted_version_is_gone_for_ever(subject: Subject) -> None:
    subject.store.put_new("v1/a", b"x")
    subject.store.put_new("v1/b", b"y")
    (found,) = subject.store.list_versions("v1/a")
    subject.store.delete_version("v1/a", version_id=found.version_id)
    assert list(subject.store.list_versions("v1/a")) == []
    assert subject.store.get("v1/a", bytes_max=10) is None
    assert subject.store.get("v1/b", bytes_max=10) == b"y"


def test_deleting_what_is_absent_is_fine(subject: Subject) -> None:
    subject.store.put_new("v1/a", b"x")
    (found,) = subject.store.list_versions("v1/a")
    subject.store.delete_version("v1/a", version_id=found.version_id)
    subject.store.delete_version("v1/a", version_id=found.version_id)
    subject.store.delete_version("v1/never/there", version_id=None)
    assert list(subject.store.list_versions("v1/")) == []


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".incoming/x", "a/.b", "a b", "a\nb", "ä", "a\\b"],
)
def test_a_key_that_could_mean_something_else_is_refused(subject: Subject, key: str) -> None:
    with pytest.raises(UsageError, match="is not an object name"):
        subject.store.put_new(key, b"x")
    with pytest.raises(UsageError, match="is not an object name"):
        subject.store.get(key, bytes_max=10)
    with pytest.raises(UsageError, match="is not an object name"):
        subject.store.delete_version(key, version_id=None)


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//b", ".inc", "a b"])
def test_a_prefix_that_no_key_has_is_refused(subject: Subject, prefix: str) -> None:
    with pytest.raises(UsageError, match="is not the beginning of an object name"):
        list(subject.store.list_keys(prefix))
    with pytest.raises(UsageError, match="is not the beginning of an object name"):
        list(subject.store.list_versions(prefix))
