"""Which version of a key was current when: the sweep against the definition, and the cases by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence.listings import entries_of, instants, marker, version
from walarchiver.core.keyhistory import absorb, completions_in, placed_again
from walarchiver.core.version import (
    FOREVER,
    Entry,
    EntryKind,
    MultipartTime,
    Placed,
    Row,
    StoreMs,
    Trait,
    current_at,
    place,
)

S = 1000
PARTS = "d41d8cd98f00b204e9800998ecf8427e-3"


def newest_at(
    listed: Sequence[Entry],
    gone: Sequence[StoreMs | None],
    ended: dict[str, StoreMs],
    moment: int,
) -> Entry | None:
    """The definition: of the entries that had begun and were not gone, the newest."""
    there = []
    for position, (entry, end) in enumerate(zip(listed, gone, strict=True)):
        begin = entry.modified
        if entry.in_parts and entry.kind is EntryKind.VERSION and entry.version_id != "null":
            begin = max(begin, ended.get(entry.version_id, begin))
        if begin <= moment and (end is None or moment < end):
            there.append((entry.modified, -position, entry))
    return max(there, key=lambda one: one[:2])[2] if there else None


@settings(max_examples=400)
@given(data=st.data())
def test_an_entry_is_current_exactly_when_it_is_the_newest_that_is_there(data: st.DataObject) -> None:
    listed = data.draw(entries_of("k"))
    gone = [data.draw(st.one_of(st.none(), st.none(), instants)) for _ in listed]
    ended = {entry.version_id: data.draw(instants) for entry in listed if data.draw(st.booleans())}
    placed = place(listed, completions=ended, gone=gone)
    changes = {*(one.begin for one in placed), *(one.until for one in placed), *(e for e in gone if e)}
    for moment in sorted({at + step for at in changes - {FOREVER} for step in (-1, 0, 1)}):
        current = [one for one in placed if one.begin <= moment < one.until]
        wanted = newest_at(listed, gone, ended, moment)
        assert [one.entry for one in current] == ([] if wanted is None else [wanted])


@settings(max_examples=200)
@given(data=st.data())
def test_every_entry_is_placed_once_and_again_only_as_reinstated(data: st.DataObject) -> None:
    listed = data.draw(entries_of("k"))
    gone = [data.draw(st.one_of(st.none(), instants)) for _ in listed]
    placed = place(listed, gone=gone)
    first = [one for one in placed if Trait.REINSTATED not in one.traits]
    assert sorted(one.entry.version_id for one in first) == sorted(entry.version_id for entry in listed)
    assert all(one.begin <= one.until for one in placed)
    assert all(one.begin < one.until for one in placed if one not in first)
    times = [(one.entry.modified, one.tie) for one in placed]
    assert times == sorted(times, reverse=True), "newest first"


@given(data=st.data())
def test_the_sweep_and_the_short_way_agree(data: st.DataObject) -> None:
    listed = [*data.draw(entries_of("k")), version("k", "x", -5)]
    swept = place(listed, gone=[*(None for _ in listed[1:]), StoreMs(-5)])
    assert swept[:-1] == place(listed)[:-1]


def at(placed: Sequence[Placed], seconds: float) -> str | None:
    found = current_at(placed, StoreMs(int(seconds * S)))
    return found.entry.version_id if found else None


# --- scenarios of a versioned bucket ---------------------------------------------------------------------


def test_two_versions_and_a_marker_are_each_there_in_their_time() -> None:
    """Scenario 1."""
    placed = place(
        [marker("k", "m", 30 * S, latest=True), version("k", "v2", 20 * S), version("k", "v1", 10 * S)]
    )
    assert [at(placed, when) for when in (5, 15, 25, 35)] == [None, "v1", "v2", None]
    assert [at(placed, when) for when in (10, 20, 30)] == ["v1", "v2", None], "an interval has its begin"


def test_an_object_older_than_versioning_is_its_null_version() -> None:
    """Scenario 2."""
    placed = place([version("k", "v1", 20 * S, latest=True), version("k", "null", 10 * S)])
    assert [at(placed, when) for when in (15, 25)] == ["null", "v1"]
    assert [Trait.NULL in one.traits for one in placed] == [False, True]


@pytest.mark.parametrize("page", [1000, 7])
def test_a_key_of_2500_entries_has_one_history_whatever_the_pages(page: int) -> None:
    """Scenario 4: pages are joined before a key is placed, and ties count over all of them."""
    listed = [version("k", f"v{n}", n // 2 * S, latest=n == 2499) for n in reversed(range(2500))]
    pages = [listed[start : start + page] for start in range(0, len(listed), page)]
    placed = place([entry for one in pages for entry in one])
    assert [one.entry.version_id for one in placed] == [f"v{n}" for n in reversed(range(2500))]
    assert [one.tie for one in placed] == [n % 2 for n in reversed(range(2500))]
    assert [at(placed, when) for when in (0, 0.5, 1249, 99_999)] == ["v1", "v1", "v2499", "v2499"]


def test_of_two_writes_in_one_second_the_one_listed_first_stands() -> None:
    """Scenario 6."""
    placed = place([version("k", "v2", 10 * S, latest=True), version("k", "v1", 10 * S)])
    assert [at(placed, when) for when in (9.999, 10, 11)] == [None, "v2", "v2"]
    assert [(one.begin, one.until) for one in placed] == [(10 * S, FOREVER), (10 * S, 10 * S)]


def test_markers_and_versions_of_one_second_keep_the_order_of_the_listing() -> None:
    listed = [marker("k", "m2", 10 * S, latest=True), version("k", "v3", 10 * S)]
    listed += [version("k", "v2", 10 * S), marker("k", "m1", 10 * S), version("k", "v1", 10 * S)]
    placed = place([*listed, version("k", "v0", 9 * S)])
    assert [at(placed, when) for when in (9.5, 10, 20)] == ["v0", None, None]
    assert [one.tie for one in placed] == [4, 3, 2, 1, 0, 0]


# --- uploads in parts ------------------------------------------------------------------------------------


def test_an_upload_in_parts_begins_when_it_was_completed() -> None:
    listed = [version("k", "v2", 20 * S, latest=True, etag=PARTS), version("k", "v1", 10 * S)]
    placed = place(listed, completions={"v2": StoreMs(27_500)})
    assert [at(placed, when) for when in (21, 27.499, 27.5)] == ["v1", "v1", "v2"]
    assert placed[0].traits == Trait.MULTIPART


def test_an_upload_completed_after_a_later_write_was_never_current() -> None:
    listed = [marker("k", "m", 25 * S, latest=True), version("k", "v1", 20 * S, etag=PARTS)]
    placed = place(listed, completions={"v1": StoreMs(30 * S)})
    assert [at(placed, when) for when in (22, 26, 31)] == [None, None, None]
    assert (placed[1].begin, placed[1].until) == (30 * S, 30 * S)


@pytest.mark.parametrize(
    ("shows", "is_marked"),
    [(MultipartTime.INITIATION, True), (MultipartTime.UNKNOWN, True), (MultipartTime.COMPLETION, False)],
)
def test_an_upload_whose_end_nobody_told_is_marked_unless_the_store_shows_it(
    shows: MultipartTime, is_marked: bool
) -> None:
    placed = place([version("k", "v1", 20 * S, latest=True, etag=PARTS)], multipart_time=shows)
    assert (Trait.UNKNOWN_BEGIN in placed[0].traits) is is_marked


def test_an_end_told_for_a_null_version_proves_nothing() -> None:
    listed = [version("k", "null", 20 * S, latest=True, etag=PARTS)]
    (placed,) = place(listed, completions={"null": StoreMs(25 * S)})
    assert (placed.begin, placed.traits) == (20 * S, Trait.NULL | Trait.MULTIPART | Trait.UNKNOWN_BEGIN)


def test_a_marker_is_never_an_upload_in_parts() -> None:
    odd = Entry("k", "m", EntryKind.MARKER, StoreMs(5), 0, "has-dash", "", True)
    assert place([odd])[0].traits == Trait.NONE


# --- contradictions --------------------------------------------------------------------------------------


def test_an_order_that_contradicts_the_times_is_marked_on_the_whole_key() -> None:
    listed = [version("k", "v1", 10 * S, latest=True), version("k", "v2", 20 * S)]
    placed = place(listed)
    assert all(Trait.ORDER_CONFLICT in one.traits for one in placed)
    assert at(placed, 25) == "v2", "the time decides all the same"


def test_who_was_the_latest_before_it_was_removed_is_no_contradiction() -> None:
    listed = [version("k", "v2", 20 * S, latest=True), version("k", "v1", 10 * S, latest=True)]
    placed = place(listed, gone=[StoreMs(30 * S), None])
    assert not any(Trait.ORDER_CONFLICT in one.traits for one in placed)


def test_what_a_removed_version_had_covered_is_current_again() -> None:
    listed = [marker("k", "m", 20 * S, latest=True), version("k", "v1", 10 * S)]
    placed = place(listed, gone=[StoreMs(40 * S), None])
    assert [at(placed, when) for when in (15, 30, 39.999, 40)] == ["v1", None, None, "v1"]
    assert [(one.entry.version_id, Trait.REINSTATED in one.traits) for one in placed] == [
        ("m", False),
        ("v1", True),
        ("v1", False),
    ]


def test_an_upload_that_began_covered_and_outlived_what_covered_it_is_current_then() -> None:
    listed = [marker("k", "m", 25 * S), version("k", "v1", 20 * S, etag=PARTS)]
    placed = place(listed, completions={"v1": StoreMs(30 * S)}, gone=[StoreMs(50 * S), None])
    assert [at(placed, when) for when in (40, 49.999, 50)] == [None, None, "v1"]
    assert [(one.begin, one.until) for one in placed] == [
        (25 * S, 50 * S),
        (50 * S, FOREVER),
        (30 * S, 30 * S),
    ]


# --- what a listing changes ------------------------------------------------------------------------------


def rows(*listings: tuple[int, list[Entry]]) -> tuple[Row, ...]:
    """The history after listings asked for at these seconds."""
    known: tuple[Row, ...] = ()
    covered = None
    for seconds, listed in listings:
        asked = StoreMs(seconds * S)
        known = absorb(known, listed, asked=asked, covered=covered).rows
        covered = asked
    return known


V1, V2 = version("k", "v1", 10 * S, latest=True), version("k", "v2", 20 * S, latest=True)
OLD_V1 = version("k", "v1", 10 * S)


def test_a_version_that_is_no_longer_listed_is_gone_between_the_two_listings() -> None:
    v2, v1 = rows((30, [V2, OLD_V1]), (40, [V2, OLD_V1]), (50, [V2]))
    assert (v2.gone_by, v1.gone_by, v1.gone_after, v1.first_seen) == (None, 50 * S, 40 * S, 30 * S)
    assert (v1.placed.begin, v1.placed.until) == (10 * S, 20 * S), "covered before it was removed"


def test_a_removed_latest_version_counts_until_it_was_missed() -> None:
    history = rows((30, [V2, OLD_V1]), (50, [V1]))
    placed = [row.placed for row in history]
    assert [at(placed, when) for when in (25, 49.999, 50)] == ["v2", "v2", "v1"]


def test_a_version_that_is_listed_again_was_never_gone() -> None:
    lost = rows((30, [V2, OLD_V1]), (40, [V2]))
    back = absorb(lost, [V2, OLD_V1], asked=StoreMs(50 * S), covered=StoreMs(40 * S))
    assert (back.added, back.gone, back.revived) == (0, 0, 1)
    assert back.rows == rows((30, [V2, OLD_V1]))


def test_a_null_version_that_was_replaced_is_another_one_and_the_old_one_gone() -> None:
    """Suspended: a write destroys the `null` version that is there."""
    history = rows(
        (30, [version("k", "null", 10 * S, latest=True)]), (50, [version("k", "null", 40 * S, latest=True)])
    )
    assert [(row.entry.modified, row.is_gone) for row in history] == [(40 * S, False), (10 * S, True)]
    assert [row.placed.until for row in history] == [FOREVER, 40 * S]


def test_what_is_gone_keeps_its_place_among_entries_of_its_second() -> None:
    a, b, c, d = (version("k", name, 10 * S) for name in "abcd")
    history = rows((20, [c, b, a]), (30, [d, c, a]), (40, [d, a]))
    assert [row.entry.version_id for row in history] == ["d", "c", "b", "a"]
    assert history == rows((20, [c, b, a]), (30, [d, c, a]), (40, [d, a]), (40, [d, a]))


def test_a_changed_storage_class_is_no_new_version() -> None:
    cold = Entry("k", "v1", EntryKind.VERSION, StoreMs(10 * S), 1, "e", "GLACIER", True)
    told = absorb(rows((20, [V1])), [cold], asked=StoreMs(30 * S), covered=StoreMs(20 * S))
    assert (told.added, told.gone, told.rows[0].entry.storage_class) == (0, 0, "GLACIER")
    assert told.rows[0].first_seen == 20 * S


def test_when_an_upload_ended_stays_known_through_later_listings() -> None:
    upload = version("k", "v1", 10 * S, latest=True, etag=PARTS)
    known = placed_again(rows((20, [upload])), {"v1": StoreMs(15_500)})
    assert completions_in(known) == {"v1": 15_500}
    again = absorb(known, [upload], asked=StoreMs(30 * S), covered=StoreMs(20 * S))
    assert again.rows == known
    assert placed_again(known, {"v1": StoreMs(16_000)}) == known, "the earliest end counts"


@given(data=st.data())
def test_the_same_listing_twice_changes_nothing(data: st.DataObject) -> None:
    known: tuple[Row, ...] = ()
    covered = None
    for _ in range(3):
        listed, asked = data.draw(entries_of("k")), StoreMs((covered or 0) + data.draw(st.integers(0, 3000)))
        once = absorb(known, listed, asked=asked, covered=covered)
        twice = absorb(once.rows, listed, asked=asked, covered=asked)
        assert (twice.rows, twice.added, twice.gone, twice.revived) == (once.rows, 0, 0, 0)
        there = {row.entry for row in once.rows if not row.is_gone}
        assert there == set(listed)
        known, covered = once.rows, asked
