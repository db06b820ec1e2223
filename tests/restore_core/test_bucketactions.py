"""What is done with a key of the bucket: each rule by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from restore.core.bucketactions import (
    COPY_BYTES_MAX,
    Action,
    Case,
    Kind,
    Options,
    Undelete,
    decide,
    wants_examination,
)
from restore.core.bucketlines import action_line, parse_action
from restore.core.bucketstate import (
    DAY_MS,
    Flag,
    Want,
    holding_of,
    live,
    loss_of,
    origin_in,
    want_of,
)
from walarchiver.bucketports import Doubt, Expected, LifecycleRule, VersionDetail
from walarchiver.core.version import Entry, EntryKind, Row, StoreMs, Trait, place

KEY = "case/1/photo.jpg"


def version(at: int, name: str, content: str = "", *, size: int = 1, tier: str = "STANDARD") -> Entry:
    return Entry(KEY, name, EntryKind.VERSION, StoreMs(at), size, content or f"etag-of-{name}", tier, False)


def marker(at: int, name: str) -> Entry:
    return Entry(KEY, name, EntryKind.MARKER, StoreMs(at), 0, "", "", False)


def rows(*newest_first: Entry) -> tuple[Row, ...]:
    """The history of a key of which everything is still there."""
    entries = [replace(entry, is_latest=at == 0) for at, entry in enumerate(newest_first)]
    return tuple(Row(placed, StoreMs(0)) for placed in place(entries)) if entries else ()


def detail(entry: Entry, **changes: object) -> VersionDetail:
    plain = VersionDetail(entry.size, entry.etag, entry.modified, entry.storage_class, True, "", "")
    return replace(plain, **changes)  # type: ignore[arg-type]


def wanted(history: tuple[Row, ...], moment: int, *doubts: Doubt, by_name: bool = False) -> Want:
    at = next((row for row in history if row.was_current(StoreMs(moment))), None)
    if at is not None and at.entry.kind is EntryKind.MARKER:
        at = None
    return want_of(KEY, at, doubts, history, StoreMs(moment), by_name=by_name)


def case_of(want: Want, **changes: object) -> Case:
    """In place, examined, with nothing special about any version."""
    holding = holding_of(live(want.history))
    origin = None if want.row is None else origin_in(want.row, live(want.history), same_bucket=True)
    plain = Case(
        want=want,
        to=KEY,
        holding=holding,
        origin=origin,
        in_place=True,
        examined=True,
        origin_detail=None if origin is None else detail(origin.entry),
        current_detail=None if holding.current is None else detail(holding.current),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def action_of(history: tuple[Row, ...], moment: int, **options: object) -> Action:
    return decide(case_of(wanted(history, moment)), Options(**options))  # type: ignore[arg-type]


# --- rule by rule ------------------------------------------------------------------------------------------


def test_the_same_version_is_left_alone() -> None:
    assert action_of(rows(version(10, "a")), 20).kind is Kind.NOTHING


def test_an_overwritten_version_is_copied_on_top_of_what_was_seen() -> None:
    action = action_of(rows(version(30, "b"), version(10, "a")), 20)
    assert (action.kind, action.source and action.source.version_id) == (Kind.COPY, "a")
    assert action.expected == Expected("etag-of-b")


def test_what_is_current_with_the_same_content_is_left_alone() -> None:
    history = rows(version(30, "b", "same"), version(10, "a", "same"))
    assert action_of(history, 20).kind is Kind.NOTHING


@pytest.mark.parametrize("encryption", ["aws:kms", "aws:kms:dsse"])
def test_under_sse_kms_an_equal_etag_proves_nothing_but_an_equal_checksum_does(encryption: str) -> None:
    case = case_of(wanted(rows(version(30, "b", "same"), version(10, "a", "same")), 20))
    assert case.origin_detail is not None
    assert case.current_detail is not None
    hidden = replace(case, current_detail=replace(case.current_detail, encryption=encryption))
    assert decide(hidden, Options()).kind is Kind.COPY
    summed = replace(
        hidden,
        origin_detail=replace(case.origin_detail, checksum="CRC64NVME:AAAA"),
        current_detail=replace(case.current_detail, encryption=encryption, checksum="CRC64NVME:AAAA"),
    )
    assert decide(summed, Options()).kind is Kind.NOTHING


def test_unequal_checksums_of_one_kind_outweigh_equal_etags_and_others_say_nothing() -> None:
    case = case_of(wanted(rows(version(30, "b", "same"), version(10, "a", "same")), 20))
    assert case.origin_detail is not None
    assert case.current_detail is not None
    one, other = replace(case.origin_detail, checksum="SHA256:AA="), case.current_detail
    differs = replace(case, origin_detail=one, current_detail=replace(other, checksum="SHA256:BB="))
    assert decide(differs, Options()).kind is Kind.COPY
    another = replace(case, origin_detail=one, current_detail=replace(other, checksum="CRC32:BB="))
    assert decide(another, Options()).kind is Kind.NOTHING


def test_nothing_is_called_equal_before_head_was_asked() -> None:
    case = replace(
        case_of(wanted(rows(version(30, "b", "same"), version(10, "a", "same")), 20)), examined=False
    )
    action = decide(case, Options())
    assert action.kind is Kind.COPY
    assert wants_examination(case, action)


def test_a_copy_that_an_earlier_restore_made_is_left_alone() -> None:
    case = case_of(wanted(rows(version(30, "b", "parts-2"), version(10, "a", "whole")), 20))
    assert decide(case, Options()).kind is Kind.COPY
    assert decide(replace(case, copied_before=True), Options()).kind is Kind.NOTHING


def test_more_than_5_gb_is_copied_in_parts() -> None:
    large = version(10, "a", size=COPY_BYTES_MAX + 1)
    assert action_of(rows(version(30, "b"), large), 20).kind is Kind.COPY_IN_PARTS
    just = version(10, "a", size=COPY_BYTES_MAX)
    assert action_of(rows(version(30, "b"), just), 20).kind is Kind.COPY


def test_what_came_later_is_left_and_reported_unless_it_is_to_be_deleted() -> None:
    history = rows(version(30, "b"))
    assert action_of(history, 20).kind is Kind.EXTRA
    action = action_of(history, 20, delete_newer=True)
    assert (action.kind, action.expected) == (Kind.MARK_DELETED, Expected("etag-of-b"))


def test_what_came_later_into_another_bucket_is_never_deleted() -> None:
    case = case_of(wanted(rows(version(30, "b")), 20), in_place=False)
    assert decide(case, Options(delete_newer=True)).kind is Kind.EXTRA


def test_a_deleted_key_comes_back_by_a_copy_that_expects_nothing_current() -> None:
    action = action_of(rows(marker(40, "m"), version(10, "a")), 20)
    assert (action.kind, action.expected) == (Kind.COPY, Expected(None))


def test_markers_are_removed_only_when_asked_and_only_directly_above_the_wanted_version() -> None:
    history = rows(marker(50, "m2"), marker(40, "m1"), version(10, "a"))
    action = action_of(history, 20, undelete=Undelete.MARKERS)
    assert action.kind is Kind.REMOVE_MARKERS
    assert [one.version_id for one in action.markers] == ["m2", "m1"]
    between = rows(marker(50, "m"), version(30, "b"), version(10, "a"))
    assert action_of(between, 20, undelete=Undelete.MARKERS).kind is Kind.COPY


def test_below_thousands_of_markers_a_version_is_copied_on_top() -> None:
    markers = [marker(2000 - at, f"m{at}") for at in range(1001)]
    history = rows(*markers, version(10, "a"))
    assert action_of(history, 20, undelete=Undelete.MARKERS).kind is Kind.COPY
    fewer = rows(*markers[1:], version(10, "a"))
    action = action_of(fewer, 20, undelete=Undelete.MARKERS)
    assert (action.kind, len(action.markers)) == (Kind.REMOVE_MARKERS, 1000)
    assert parse_action(action_line(action)) == action


def test_removing_markers_needs_neither_a_thaw_nor_a_key() -> None:
    case = case_of(wanted(rows(marker(40, "m"), version(10, "a", tier="GLACIER")), 20))
    assert case.origin_detail is not None
    cold = replace(case, origin_detail=replace(case.origin_detail, readable=False, encryption="customer"))
    assert decide(cold, Options(undelete=Undelete.MARKERS)).kind is Kind.REMOVE_MARKERS
    assert decide(cold, Options()).kind is Kind.NEEDS_KEY


@pytest.mark.parametrize("tier", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_version_is_not_tried_unless_a_readable_copy_is_there(tier: str) -> None:
    history = rows(version(30, "b"), version(10, "a", tier=tier))
    case = case_of(wanted(history, 20))
    assert case.origin_detail is not None
    assert decide(replace(case, examined=False, origin_detail=None), Options()).kind is Kind.THAW
    assert (
        decide(replace(case, origin_detail=replace(case.origin_detail, readable=False)), Options()).kind
        is Kind.THAW
    )
    assert decide(case, Options()).kind is Kind.COPY


def test_a_hidden_archive_tier_is_known_once_head_was_asked() -> None:
    case = case_of(wanted(rows(version(30, "b"), version(10, "a", tier="INTELLIGENT_TIERING")), 20))
    assert case.origin_detail is not None
    hidden = replace(case, origin_detail=replace(case.origin_detail, readable=False))
    assert decide(hidden, Options()).kind is Kind.THAW


def test_missing_only_never_touches_a_key_that_holds_something() -> None:
    history = rows(version(30, "b"), version(10, "a"))
    assert action_of(history, 20, missing_only=True).kind is Kind.NOTHING
    deleted = rows(marker(40, "m"), version(10, "a"))
    assert action_of(deleted, 20, missing_only=True).kind is Kind.COPY


def test_a_key_that_is_known_to_be_needed_takes_its_last_version_or_is_lost() -> None:
    deleted = rows(marker(15, "m"), version(10, "a"))
    want = wanted(deleted, 20, by_name=True)
    action = decide(case_of(want), Options(missing_only=True))
    assert (action.kind, action.flags) == (Kind.COPY, (Flag.LAST_VERSION,))
    never = decide(case_of(wanted((), 20, by_name=True)), Options(missing_only=True))
    assert (never.kind, never.why) == (Kind.LOST, "it was never listed")


def test_a_needed_key_is_not_deleted_as_newer() -> None:
    case = case_of(wanted(rows(version(30, "b")), 20, by_name=True))
    assert decide(case, Options(delete_newer=True)).kind is Kind.EXTRA


# --- what is gone ------------------------------------------------------------------------------------------


def gone(row: Row, after: int, by: int) -> Row:
    return replace(row, gone_after=StoreMs(after), gone_by=StoreMs(by))


def test_a_purged_version_is_lost_with_when_it_existed_and_between_which_listings_it_went() -> None:
    top, below = rows(version(30, "b"), version(10, "a"))
    action = decide(case_of(wanted((top, gone(below, 50, 60)), 20)), Options())
    assert action.kind is Kind.LOST
    loss = action.loss
    assert loss is not None
    assert (loss.existed_from, loss.existed_until) == (10, 30)
    assert (loss.purged_after, loss.purged_by, loss.cause) == (50, 60, "removed by its version id")


def test_a_loss_names_the_lifecycle_rule_only_when_it_was_due() -> None:
    _, below = rows(version(30, "b"), version(10, "a"))
    rule = LifecycleRule("tidy", "case/", 7, None, expires=False, filtered=False)
    due, early = 30 + 7 * DAY_MS, 30 + 6 * DAY_MS
    assert "'tidy'" in loss_of(gone(below, 50, due), [rule]).cause
    assert loss_of(gone(below, 50, early), [rule]).cause == "removed by its version id"
    other = replace(rule, prefix="other/")
    assert loss_of(gone(below, 50, due), [other]).cause == "removed by its version id"


def test_a_purged_version_is_replaced_by_one_with_its_etag_and_size() -> None:
    newest, copy, below = rows(version(40, "c"), version(30, "b", "same"), version(10, "a", "same"))
    action = decide(case_of(wanted((newest, copy, gone(below, 50, 60)), 20)), Options())
    assert action.kind is Kind.COPY
    assert action.source is not None
    assert (action.source.version_id, action.flags) == ("b", (Flag.SAME_CONTENT,))


def test_a_version_that_went_since_the_newest_listing_is_lost_not_tried() -> None:
    case = replace(case_of(wanted(rows(version(30, "b"), version(10, "a")), 20)), origin_detail=None)
    assert decide(case, Options()).kind is Kind.LOST


def test_in_a_second_bucket_a_version_id_alone_proves_nothing() -> None:
    row = rows(version(10, "a", "mine"))[0]
    assert origin_in(row, [version(11, "a", "other")], same_bucket=False) is None
    found = origin_in(row, [version(11, "x", "mine")], same_bucket=False)
    assert found is not None
    assert (found.entry.version_id, found.exact) == ("x", True)


# --- doubts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doubt", [Doubt.MULTIPART, Doubt.ORDER, Doubt.NULL, Doubt.REMOVED])
def test_what_is_not_certain_is_listed_and_written_only_when_told(doubt: Doubt) -> None:
    history = rows(version(30, "b"), version(10, "a"))
    if doubt is Doubt.MULTIPART:
        late = history[1].placed
        unknown = replace(late, traits=late.traits | Trait.UNKNOWN_BEGIN | Trait.MULTIPART)
        history = (history[0], Row(unknown, first_seen=StoreMs(50)))
    case = case_of(wanted(history, 20, doubt))
    assert decide(case, Options()).kind is Kind.AMBIGUOUS
    assert decide(case, Options(accept_uncertain=True)).kind is Kind.COPY


def test_an_upload_in_parts_that_a_listing_showed_by_the_moment_is_certain() -> None:
    top, below = rows(version(30, "b"), version(10, "a"))
    unknown = replace(below.placed, traits=Trait.UNKNOWN_BEGIN | Trait.MULTIPART)
    seen_by_then = wanted((top, Row(unknown, first_seen=StoreMs(20))), 20, Doubt.MULTIPART)
    assert seen_by_then.flags == ()


def test_a_doubt_about_what_is_current_anyway_needs_no_guess() -> None:
    case = case_of(wanted(rows(version(10, "a")), 20, Doubt.REMOVED))
    action = decide(case, Options())
    assert (action.kind, action.flags) == (Kind.NOTHING, (Flag.REMOVED,))


def test_where_something_happened_in_the_asked_second_the_version_is_kept() -> None:
    history = rows(marker(2000, "m"), version(1000, "a"))
    want = wanted(history, 2000, Doubt.BOUNDARY)
    action = decide(case_of(want), Options())
    assert (action.kind, action.flags) == (Kind.COPY, (Flag.BOUNDARY,))
    both = wanted(rows(marker(2000, "m"), version(2000, "a")), 2000, Doubt.BOUNDARY)
    assert decide(case_of(both), Options()).kind is Kind.COPY, "made and deleted in that second"
    long_ago = wanted(rows(marker(2000, "m"), version(1000, "a")), 3001)
    assert long_ago.row is None


def test_when_the_server_calls_another_entry_the_latest_nothing_is_written() -> None:
    entries = [replace(version(30, "b"), is_latest=False), replace(version(10, "a"), is_latest=True)]
    case = case_of(wanted(rows(version(30, "b"), version(10, "a")), 20), holding=holding_of(entries))
    action = decide(case, Options())
    assert (action.kind, action.flags) == (Kind.AMBIGUOUS, (Flag.ORDER,))
