"""What is done with a key, for histories made by chance; lines that are damaged, and the verification."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restore.core.bucketactions import (
    WRITES,
    Action,
    Kind,
    Options,
    Undelete,
    decide,
)
from restore.core.bucketagain import Fault, case_again, fault_of, overrides
from restore.core.bucketlines import action_line, parse_action
from restore.core.bucketstate import (
    BLOCKING,
    holding_of,
    live,
)
from tests.restore_core.test_bucketactions import (
    KEY,
    action_of,
    case_of,
    detail,
    marker,
    rows,
    version,
    wanted,
)
from walarchiver.bucketports import Doubt, Expected
from walarchiver.core.version import Entry, EntryKind, Placed, Row, StoreMs, current_at, place
from walarchiver.errors import MalformedObject


@dataclass(frozen=True)
class Drawn:
    history: tuple[Row, ...]
    moment: StoreMs


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """A key's history, newest first, some of it removed for ever; ties in time are frequent."""
    times = sorted(draw(st.lists(st.integers(1, 6), max_size=6)), reverse=True)
    entries = []
    for at, time in enumerate(times):
        if draw(st.booleans()):
            entries.append(marker(time, f"m{at}"))
        else:
            entries.append(version(time, f"v{at}", draw(st.sampled_from(["x", "y", ""]))))
    gone_flags = [draw(st.integers(0, 4)) == 0 for _ in entries]
    left = [at for at, is_gone in enumerate(gone_flags) if not is_gone]
    entries = [replace(entry, is_latest=bool(left) and at == left[0]) for at, entry in enumerate(entries)]
    ends = [StoreMs(20) if is_gone else None for is_gone in gone_flags]
    history = []
    for placed in place(entries, gone=ends) if entries else ():
        end = ends[entries.index(placed.entry)]
        history.append(Row(placed, StoreMs(7), gone_by=end, gone_after=None if end is None else StoreMs(8)))
    return Drawn(tuple(history), StoreMs(draw(st.integers(0, 7))))


options = st.builds(
    Options,
    missing_only=st.booleans(),
    delete_newer=st.booleans(),
    undelete=st.sampled_from(Undelete),
    accept_uncertain=st.booleans(),
)
doubts = st.lists(st.sampled_from(Doubt), unique=True, max_size=2)


def done(action: Action, entries: list[Entry]) -> list[Entry]:
    """What a faithful store makes of it: the key's entries afterwards, newest first."""
    if action.kind in (Kind.COPY, Kind.COPY_IN_PARTS):
        source = next(
            entry for entry in entries if action.source and entry.version_id == action.source.version_id
        )
        entries = [replace(source, version_id="new", modified=StoreMs(100)), *entries]
    elif action.kind is Kind.MARK_DELETED:
        entries = [marker(100, "new"), *entries]
    elif action.kind is Kind.REMOVE_MARKERS:
        removed = {one.version_id for one in action.markers}
        assert all(entry.kind is EntryKind.MARKER for entry in entries if entry.version_id in removed)
        entries = [entry for entry in entries if entry.version_id not in removed]
    return [replace(entry, is_latest=at == 0) for at, entry in enumerate(entries)]


@given(drawn(), options, doubts)
def test_carrying_out_an_action_reaches_what_was_wanted_destroys_nothing_and_then_needs_nothing(
    given_: Drawn, chosen: Options, unsure: list[Doubt]
) -> None:
    want = wanted(given_.history, given_.moment, *unsure)
    before = list(live(given_.history))
    action = decide(case_of(want), chosen)
    after = done(action, before)

    versions = {entry.version_id for entry in before if entry.kind is EntryKind.VERSION}
    assert versions <= {entry.version_id for entry in after}, "no version is ever removed"
    current = holding_of(before).current
    assert action.expected == Expected(None if current is None else current.etag)
    if action.kind not in WRITES:
        return
    assert not (chosen.missing_only and current is not None)
    assert chosen.accept_uncertain or not BLOCKING & set(want.flags)
    reached = holding_of(after).current
    if action.kind is Kind.MARK_DELETED:
        assert chosen.delete_newer
        assert want.row is None
        assert reached is None
    else:
        assert want.row is not None
        assert reached is not None
        assert (reached.etag, reached.size) == (want.row.entry.etag, want.row.entry.size)
    if action.kind is Kind.REMOVE_MARKERS:
        assert chosen.undelete is Undelete.MARKERS

    again = replace(
        case_again(action, after, in_place=True, same_bucket=True),
        examined=True,
        origin_detail=None if action.source is None else detail(before_of(before, action)),
        current_detail=None if reached is None else detail(reached),
    )
    assert decide(again, chosen).kind is Kind.NOTHING


def before_of(entries: list[Entry], action: Action) -> Entry:
    assert action.source is not None
    return next(entry for entry in entries if entry.version_id == action.source.version_id)


@given(drawn(), options, doubts)
def test_an_action_survives_its_own_line(given_: Drawn, chosen: Options, unsure: list[Doubt]) -> None:
    action = decide(case_of(wanted(given_.history, given_.moment, *unsure)), chosen)
    assert parse_action(action_line(action)) == action


@given(drawn())
def test_without_doubts_wanted_is_what_the_rule_of_versions_says(given_: Drawn) -> None:
    placed: tuple[Placed, ...] = tuple(row.placed for row in given_.history)
    says = current_at(placed, given_.moment) if placed else None
    row = wanted(given_.history, given_.moment).row
    assert (None if row is None else row.entry) == (None if says is None else says.entry)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"key":"a","kind":"copy","why":""}',
        b'{"key":"a","kind":"purge","why":""}\n',
        b'{"key":"a","kind":"copy","why":"","x":1}\n',
        b'{"key":"a","kind":"copy", "why":""}\n',
        b'{"flags":["odd"],"key":"a","kind":"copy","why":""}\n',
        b'{"key":"a","kind":"remove_markers","markers":[["m",true]],"why":""}\n',
    ],
)
def test_a_damaged_line_is_refused(damaged: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_action(damaged)


def found(*listed: Entry) -> Fault | None:
    return fault_of(KEY, Kind.COPY, "new", size=1, replaced="old", listed=listed)


def test_verification_tells_what_others_wrote_from_what_is_missing() -> None:
    ours, theirs = replace(version(100, "new"), is_latest=True), replace(version(101, "x"), is_latest=True)
    old, under = version(50, "old"), replace(ours, is_latest=False)
    assert found(ours, old) is None
    for listed in ([theirs, under, old], [ours, replace(theirs, is_latest=False), old]):
        fault = found(*listed)
        assert fault is not None
        assert fault.theirs
    for listed in (
        [],
        [theirs, old],
        [replace(ours, size=2), old],
        [replace(marker(100, "new"), is_latest=True)],
    ):
        fault = found(*listed)
        assert fault is not None
        assert not fault.theirs


def test_only_what_the_plan_had_not_seen_counts_as_overridden() -> None:
    action = action_of(
        rows(marker(50, "m2"), marker(40, "m1"), version(10, "a")), 20, undelete=Undelete.MARKERS
    )
    one_left = action_of(rows(marker(40, "m1"), version(10, "a")), 20, undelete=Undelete.MARKERS)
    assert not overrides(action, one_left)
    theirs = action_of(rows(version(60, "c"), marker(40, "m1"), version(10, "a")), 20)
    assert overrides(action, theirs)
