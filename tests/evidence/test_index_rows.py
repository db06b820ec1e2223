"""Rows of the index: what a listing says survives being kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.evidence.listings import IDS, entries_of
from tests.evidence.test_sqlite_index import ASKED
from walarchiver.core.keyhistory import absorb
from walarchiver.core.version import Entry, EntryKind, StoreMs
from walarchiver.evidence.indexrow import (
    entry_of,
    facts_of,
    is_unchanged,
    row_of,
    simple,
    stored_rows,
)
from walarchiver.evidence.sqlitequestions import bounds

texts = st.one_of(
    st.sampled_from(["", *IDS, "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e-0012"]),
    st.from_regex(r"[0-9a-f]{32}(-[0-9]{1,12})?", fullmatch=True),
    st.text(st.characters(codec="utf-8"), max_size=40),
)


@given(texts, texts.filter(bool), st.booleans(), st.integers(0, 5 * 2**40))
def test_what_a_listing_says_survives_being_kept_short(
    etag: str, version_id: str, latest: bool, size: int
) -> None:
    entry = Entry("k", version_id, EntryKind.VERSION, StoreMs(7), size, etag, "STANDARD", latest)
    assert entry_of("k", facts_of(entry, lambda _name: 1), lambda _number: "STANDARD") == entry


@given(st.data())
def test_rows_survive_being_kept(data: st.DataObject) -> None:
    names = ["", "STANDARD", "GLACIER", "own class"]
    listed = data.draw(entries_of("k"))
    rows = absorb([], listed, asked=ASKED, covered=None).rows
    stored = stored_rows(rows, names.index)
    assert tuple(row_of("k", row, names.__getitem__) for row in reversed(stored)) == rows
    facts = [facts_of(entry, names.index) for entry in listed]
    short = simple(facts, ASKED)
    assert short is None or short == stored
    if is_unchanged(facts, stored):
        assert absorb(rows, listed, asked=StoreMs(ASKED + 1), covered=ASKED).rows == rows


@given(st.text(st.characters(codec="utf-8"), max_size=3), st.text(st.characters(codec="utf-8"), max_size=5))
def test_a_prefix_bounds_exactly_the_keys_that_begin_with_it(prefix: str, key: str) -> None:
    for name in (key, prefix + key):
        first, end = bounds(prefix)
        assert (first <= name.encode() < end) is name.startswith(prefix)
