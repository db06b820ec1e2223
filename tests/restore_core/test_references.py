"""How one reference of the database stands against the versions of its key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore.core.bucketstate import Flag
from restore.core.references import (
    SETTLED,
    Finding,
    Fit,
    Guard,
    Reference,
    Standing,
    Tally,
    fit_by_listing,
    resolve,
)
from walarchiver.core.version import Entry, EntryKind, MultipartTime, Row, StoreMs, place

NOON = 1_795_000_000_000
GUARD = Guard.of(skew_low_ms=-200, skew_high_ms=800, app_lag_ms=58_200)
"""One minute on either side."""


def history(
    *made: tuple[int, str | None], seen_ms: int = 10**7, gone: tuple[int, ...] = ()
) -> tuple[Row, ...]:
    """Versions (second after noon, ETag) and markers (second, None), oldest first; `gone` counts from 0."""
    entries = [
        Entry(
            "k",
            f"v{number}",
            EntryKind.MARKER if etag is None else EntryKind.VERSION,
            StoreMs(NOON + second * 1000),
            0 if etag is None else 10,
            etag or "",
            "" if etag is None else "STANDARD",
            is_latest=number == len(made) - 1,
        )
        for number, (second, etag) in enumerate(made)
    ]
    lost = {f"v{number}" for number in gone}
    placed = place(entries[::-1], multipart_time=MultipartTime.UNKNOWN)
    return tuple(
        Row(
            each,
            StoreMs(NOON + seen_ms),
            StoreMs(NOON + 2 * 10**7) if each.entry.version_id in lost else None,
        )
        for each in placed
    )


def found(reference: Reference, rows: tuple[Row, ...], second: float = 0.0) -> Finding:
    return resolve(reference, rows, StoreMs(NOON + int(second * 1000)), GUARD)


def test_what_was_current_and_fits_is_a_match() -> None:
    one = found(Reference("k", etag='"aa"', size=10), history((-100, "aa"), (50, "bb")))
    assert (one.standing, one.row and one.row.entry.version_id, one.proven) == (Standing.MATCH, "v0", True)


def test_a_name_alone_matches_whatever_was_current() -> None:
    one = found(Reference("k"), history((-100, "aa")))
    assert (one.standing, one.proven) == (Standing.MATCH, True)


def test_a_sha256_that_no_listing_can_tell_is_a_match_that_is_not_proven() -> None:
    one = found(Reference("k", sha256="0" * 64), history((-100, "aa")))
    assert (one.standing, one.proven) == (Standing.MATCH, False)


def test_a_version_id_decides_alone_whatever_came_since() -> None:
    rows = history((-100, "aa"), (-50, "bb"), (-20, None))
    one = found(Reference("k", version_id="v0"), rows)
    assert (one.standing, one.row and one.row.entry.version_id) == (Standing.EXACT, "v0")
    assert found(Reference("k", version_id="v9"), rows).standing is Standing.LOST
    assert found(Reference("k", version_id="v2"), rows).standing is Standing.LOST  # a marker is no version


def test_an_object_stored_after_its_row_had_committed_is_late() -> None:
    rows = history((30, "aa"))
    one = found(Reference("k", etag="aa"), rows)
    assert (one.standing, one.want.flags) == (Standing.LATE, (Flag.LATE,))
    assert found(Reference("k", etag="aa"), rows, -31).standing is Standing.OLDER


def test_an_object_deleted_before_its_row_is_an_early_delete() -> None:
    rows = history((-1000, "aa"), (-30, None))
    assert found(Reference("k", etag="aa"), rows).standing is Standing.EARLY_DELETE
    assert found(Reference("k", etag="aa"), rows, 31).standing is Standing.OLDER
    assert found(Reference("k"), rows).standing is Standing.EARLY_DELETE


def test_other_bytes_at_the_moment_and_the_right_ones_nearby_are_a_mismatch() -> None:
    rows = history((-1000, "aa"), (-5, "bb"))
    one = found(Reference("k", etag="aa"), rows)
    assert (one.standing, one.row and one.row.entry.version_id) == (Standing.MISMATCH, "v0")
    later = found(Reference("k", etag="bb"), rows, -20)
    assert (later.standing, later.row and later.row.entry.version_id) == (Standing.MISMATCH, "v1")


def test_the_right_bytes_far_away_are_only_reported() -> None:
    rows = history((-5000, "aa"), (-1000, "bb"))
    one = found(Reference("k", etag="aa"), rows)
    assert one.standing is Standing.OLDER
    assert one.standing not in SETTLED


def test_bytes_that_no_version_has_are_lost_with_the_reason() -> None:
    assert "no version of this key was ever seen" in found(Reference("k"), ()).reason
    assert (
        "no version of this key has these bytes"
        in found(Reference("k", etag="cc"), history((-9, "aa"))).reason
    )
    gone = found(Reference("k", etag="aa"), history((-9, "aa"), gone=(0,)))
    assert gone.standing is Standing.LOST
    assert "removed for ever" in gone.reason


def test_an_upload_in_parts_seen_only_after_the_moment_is_uncertain_for_a_name_alone() -> None:
    rows = history((-100, "aa-2"))
    assert found(Reference("k"), rows).standing is Standing.UNCERTAIN
    assert found(Reference("k", etag="aa-2"), rows).standing is Standing.MATCH
    assert found(Reference("k"), history((-100, "aa-2"), seen_ms=-50_000)).standing is Standing.MATCH


def test_a_match_that_only_the_bytes_could_tell_is_no_plain_one() -> None:
    moment = StoreMs(NOON)
    told = found(Reference("k", etag="aa-2"), history((-100, "aa-2")))
    assert (told.doubted, told.plain(moment)) == (True, False)
    sure = found(Reference("k", etag="aa"), history((-100, "aa")))
    assert (sure.doubted, sure.plain(moment)) == (False, True)
    unread = found(Reference("k", sha256="0" * 64), history((-100, "aa-2")))
    assert unread.standing is Standing.UNCERTAIN


@pytest.mark.parametrize(
    ("reference", "etag", "fit"),
    [
        (Reference("k", size=11), "aa", Fit.NO),
        (Reference("k", size=10), "aa", Fit.YES),
        (Reference("k", etag="aa"), "aa", Fit.YES),
        (Reference("k", etag="bb"), "aa", Fit.NO),
        (Reference("k", etag="bb"), "aa-3", Fit.UNKNOWN),
        (Reference("k", sha256="0" * 64, size=10), "aa", Fit.UNKNOWN),
    ],
)
def test_a_listing_tells_only_what_it_can(reference: Reference, etag: str, fit: Fit) -> None:
    assert fit_by_listing(reference, history((0, etag))[0]) is fit


def test_who_reads_the_bytes_decides() -> None:
    rows = history((-1000, "aa"), (-5, "bb"))

    def fits(_reference: Reference, row: Row) -> Fit:
        return Fit.YES if row.entry.etag == "aa" else Fit.NO

    one = resolve(Reference("k", sha256="0" * 64), rows, StoreMs(NOON), GUARD, fits=fits)
    assert (one.standing, one.proven, one.row and one.row.entry.etag) == (Standing.MISMATCH, True, "aa")


moments = st.integers(-200, 200)
etags = st.sampled_from([None, "aa", "bb", "cc"])


@given(
    st.lists(st.tuples(moments, etags), max_size=6), moments, st.sampled_from(["aa", "bb", "cc"]), st.data()
)
def test_nothing_is_resolved_to_other_bytes_or_to_what_is_gone(
    made: list[tuple[int, str | None]], second: int, etag: str, data: st.DataObject
) -> None:
    gone = tuple(data.draw(st.sets(st.integers(0, 5))))
    rows = history(*sorted(made, key=lambda each: each[0]), gone=gone)
    one = found(Reference("k", etag=etag), rows, second)
    usable = [row for row in rows if row.entry.etag == etag and not row.is_gone]
    assert (one.row is None) == (not usable)
    assert (one.standing is Standing.LOST) == (not usable)
    if one.row is not None:
        assert one.row in usable
        distance = max(
            one.row.placed.begin - (NOON + second * 1000), NOON + second * 1000 - one.row.placed.until, 0
        )
        assert (one.standing is Standing.OLDER) == (distance > GUARD.before_ms) or distance == GUARD.before_ms


def test_a_comparison_is_consistent_when_everything_can_be_brought_back() -> None:
    assert Tally({Standing.MATCH: 3, Standing.LATE: 1}, unproven=2, orphans=5).consistent
    assert not Tally({Standing.MATCH: 3, Standing.OLDER: 1}, unproven=0, orphans=0).consistent
    assert not Tally({Standing.MATCH: 3, Standing.LOST: 1}, unproven=0, orphans=0).consistent
    assert Tally({Standing.MATCH: 3, Standing.LOST: 0}, unproven=0, orphans=0).references == 3
