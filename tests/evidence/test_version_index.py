"""Every engine of the version index answers as the naive one does, whatever listings it was given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence.listings import IDS, KEYS, instants, listings, ranges
from tests.kit.naiveindex import NaiveIndex
from walarchiver.bucketports import KeyRange, Observation, VersionIndex
from walarchiver.core.version import StoreMs
from walarchiver.evidence.parquetindex import ParquetIndex
from walarchiver.evidence.sqliteindex import SqliteIndex

Making = Callable[[Path], VersionIndex]
ENGINES: dict[str, Making] = {
    "sqlite": lambda folder: SqliteIndex(folder / "index.db"),
    "sqlite-in-small-steps": lambda folder: SqliteIndex(folder / "index.db", rows_at_once=3),
}


def parquet(folder: Path) -> VersionIndex:
    return ParquetIndex(folder / "index.db", rows_at_once=4, changes_max=5, part_rows=3)


MOMENTS = [StoreMs(at) for at in (-1, 0, 1, 999, 1000, 2001, 4000, 5999, 7000, 9001, 12_999, 50_000)]
PREFIXES = ("", "a", "a/", "z/", "nothing")


@pytest.fixture(params=ENGINES, scope="module")
def make(request: pytest.FixtureRequest) -> Making:
    return ENGINES[request.param]


@pytest.fixture
def index(make: Making, tmp_path: Path) -> Iterator[VersionIndex]:
    opened = make(tmp_path)
    yield opened
    opened.close()


def assert_same(index: VersionIndex, naive: NaiveIndex) -> None:
    """Every question, asked of both."""
    for key in KEYS:
        assert index.history(key) == naive.history(key)
    several = [*reversed(KEYS), "no such key", KEYS[0]]
    assert list(index.histories(iter(several))) == list(naive.histories(several))
    for prefix in PREFIXES:
        for moment in MOMENTS:
            assert list(index.as_of(moment, prefix=prefix)) == list(naive.as_of(moment, prefix=prefix))
            assert index.totals(moment, prefix=prefix) == naive.totals(moment, prefix=prefix)
            for band in (1000, 3500):
                doubts = list(naive.uncertain(moment, prefix=prefix, band_ms=band))
                assert list(index.uncertain(moment, prefix=prefix, band_ms=band)) == doubts
        for earlier, later in zip(MOMENTS, [*MOMENTS[3:], *MOMENTS[:3]], strict=True):
            changes = list(naive.diff(earlier, later, prefix=prefix))
            assert list(index.diff(earlier, later, prefix=prefix)) == changes
    for after in ("", "a", "a/1", "a/x", "￿"):
        assert list(index.as_of(MOMENTS[8], after=after)) == list(naive.as_of(MOMENTS[8], after=after))
    for keys in (KeyRange(), KeyRange("a/"), KeyRange("a/1", "b"), KeyRange("b", "b")):
        assert list(index.entries_there(keys)) == list(naive.entries_there(keys))
    assert index.observations() == naive.observations()
    for most in (0, 2, 100):
        assert index.unshipped(keys_max=most) == naive.unshipped(keys_max=most)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_engine_answers_as_the_naive_index_does(make: Making, data: st.DataObject) -> None:
    assert_answers_as_the_naive_index(make, data)


@settings(max_examples=4, deadline=None)  # each costs seconds; 150 at night
@given(data=st.data())
def test_parquet_parts_answer_as_the_naive_index_does(data: st.DataObject) -> None:
    assert_answers_as_the_naive_index(parquet, data)


@pytest.mark.nightly
@pytest.mark.parametrize("which", [*ENGINES, "parquet"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_engines_answer_as_the_naive_index_does_for_long(which: str, data: st.DataObject) -> None:
    assert_answers_as_the_naive_index(ENGINES.get(which, parquet), data)


def assert_answers_as_the_naive_index(make: Making, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index, naive = make(Path(folder)), NaiveIndex()
        try:
            for _ in range(data.draw(st.integers(1, 7))):
                act(data, index, naive)
            assert_same(index, naive)
        finally:
            index.close()


def act(data: st.DataObject, index: VersionIndex, naive: NaiveIndex) -> None:
    """Do something to both."""
    key = st.sampled_from(KEYS)
    deed = data.draw(
        st.sampled_from(("ingest",) * 6 + ("again", "upload", "observe", "ship", "unship", "load"))
    )
    match deed:
        case "ingest" | "again":
            keys, asked = data.draw(ranges()), data.draw(instants)
            listing = data.draw(listings(keys))
            for _ in range(2 if deed == "again" else 1):
                told = index.ingest(keys, iter(listing), asked=asked)
                assert told == naive.ingest(keys, listing, asked=asked)
        case "upload":
            ended = (data.draw(key), data.draw(st.sampled_from(IDS)), data.draw(instants))
            index.complete_upload(*ended)
            naive.complete_upload(*ended)
        case "observe":
            value = data.draw(st.sampled_from(("initiation", "completion", "unknown")))
            kind = data.draw(st.sampled_from(("multipart_time", "multipart_time", "scan")))
            seen = Observation(data.draw(instants), kind, value)
            for one in (index, naive):
                one.observe(seen)
        case "ship":
            before = index.changes, naive.changes
            shipped = data.draw(st.lists(key, unique=True))
            if data.draw(st.booleans()):
                keys, asked = data.draw(ranges()), data.draw(instants)
                listing = data.draw(listings(keys))
                index.ingest(keys, listing, asked=asked)
                naive.ingest(keys, listing, asked=asked)
            index.mark_shipped(shipped, changes_before=before[0])
            naive.mark_shipped(shipped, changes_before=before[1])
        case "unship":
            for one in (index, naive):
                one.unship_all()
        case _:
            name = data.draw(key)
            rows = naive.history(name) if data.draw(st.booleans()) else ()
            others = [(other, naive.history(other)) for other in data.draw(st.lists(key, max_size=3))]
            for one in (index, naive):
                one.load(name, rows)
                assert one.load_many([*others, (name, rows)]) == sum(len(each) for _, each in others) + len(
                    rows
                )
