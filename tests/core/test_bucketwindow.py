"""The honest window: what limits it, and what is said of a moment outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.bucketfacts import (
    LifecycleRule,
    Observation,
    gap_text,
    parse_gap,
    parse_rules,
    parse_scan,
    rules_text,
    scan_text,
)
from walarchiver.core.bucketwindow import (
    DAY_MS,
    Alarm,
    Cause,
    Certainty,
    Window,
    guaranteed_since,
    window_of,
)
from walarchiver.core.version import FOREVER, StoreMs

HOUR = 3_600_000
DAY_0 = 20_000 * DAY_MS


def day(days: float) -> StoreMs:
    """Days behind a midnight UTC."""
    return StoreMs(DAY_0 + round(days * DAY_MS))


def versioning(days: float, value: str = "Enabled") -> Observation:
    return Observation(day(days), "versioning", value)


def rule(days: int | None, name: str = "tidy", prefix: str = "") -> LifecycleRule:
    return LifecycleRule(name, prefix, days, None, False, False)


def rules(days: float, *found: LifecycleRule) -> Observation:
    return Observation(day(days), "lifecycle", rules_text(found))


def scan(days: float, prefix: str = "") -> Observation:
    return Observation(day(days), "scan", scan_text(prefix, keys=1, entries=2))


def gap(since: float, until: float) -> Observation:
    return Observation(day(until), "feed_gap", gap_text(day(since)))


def window(
    *seen: Observation, now: float = 50, prefix: str = "", retention_days: float | None = None
) -> Window:
    ordered = sorted(seen, key=lambda one: one.at)
    kept = None if retention_days is None else round(retention_days * DAY_MS)
    return window_of(ordered, now=day(now), prefix=prefix, retention_ms=kept)


def certainty(found: Window, days: float) -> Certainty:
    return found.verdict(day(days)).certainty


def test_between_the_first_and_the_last_listing_everything_is_complete() -> None:
    found = window(versioning(1), scan(2), versioning(9), scan(10))
    assert (found.start.at, found.start.cause) == (day(2), Cause.FIRST_SCAN)
    assert (found.end.at, found.end.cause) == (day(10), Cause.LAST_SCAN)
    assert [certainty(found, at) for at in (1.9, 2, 6, 10, 10.1)] == [
        Certainty.UNPROVEN,
        Certainty.COMPLETE,
        Certainty.COMPLETE,
        Certainty.COMPLETE,
        Certainty.AFTER_LAST_SCAN,
    ]
    assert (found.reachable, found.alarms) == (((day(2), day(10)),), ())


def test_a_bucket_that_was_never_listed_has_no_window() -> None:
    found = window(versioning(1))
    assert (found.reachable, certainty(found, 5)) == ((), Certainty.UNPROVEN)
    assert found.verdict(day(5)).told == "the bucket was never listed completely"
    assert found.nearest(day(5)) == (None, None)


def test_a_listing_of_a_part_of_the_bucket_proves_that_part_only() -> None:
    seen = (versioning(1), scan(2, "case/"), scan(8, "case/"))
    assert window(*seen, prefix="case/7/").reachable == ((day(2), day(8)),)
    assert window(*seen, prefix="case").reachable == ()


# --- versioning ------------------------------------------------------------------------------------------


def test_a_suspended_span_is_not_protected_and_says_so() -> None:
    """Scenario 3."""
    found = window(versioning(1), scan(2), versioning(4, "Suspended"), versioning(6), scan(10))
    verdict = found.verdict(day(5))
    assert verdict.certainty is Certainty.NOT_VERSIONED
    assert verdict.told == "versioning was Suspended"
    assert found.reachable == ((day(6), day(10)),)


def test_a_suspension_may_have_begun_right_after_the_last_answer_before_it() -> None:
    found = window(
        versioning(1), scan(1.5), versioning(3), versioning(4, "Suspended"), versioning(6), scan(10)
    )
    assert found.reachable == ((day(1.5), day(3)), (day(6), day(10)))
    assert [certainty(found, at) for at in (3, 3.1, 5.9, 6)] == [
        Certainty.COMPLETE,
        Certainty.NOT_VERSIONED,
        Certainty.NOT_VERSIONED,
        Certainty.COMPLETE,
    ]
    assert found.nearest(day(5)) == (day(3), day(6))


def test_versioning_that_is_suspended_now_is_an_alarm_and_ends_the_window() -> None:
    found = window(versioning(1), scan(2), versioning(4), versioning(8, "Suspended"), scan(10))
    assert found.reachable == ((day(2), day(4)),)
    assert [one.alarm for one in found.alarms] == [Alarm.NOT_VERSIONED]
    assert found.verdict(day(9)).told == "versioning is Suspended"
    assert found.excluded[0].until == FOREVER


def test_a_bucket_listed_before_it_was_versioned_is_covered_from_then_on() -> None:
    found = window(versioning(1, "Off"), scan(2), versioning(5), scan(10))
    assert (found.start.cause, found.start.at) == (Cause.VERSIONING, day(5))
    assert certainty(found, 3) is Certainty.NOT_VERSIONED


# --- lifecycle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "since"),
    [(50.0, 43.0), (50.5, 43.0), (50.99, 43.0), (51.0, 44.0)],
)
def test_a_rule_leaves_alone_what_was_current_after_midnight_so_many_days_ago(
    now: float, since: float
) -> None:
    found = window(versioning(1), rules(1, rule(7)), scan(2), scan(49), now=now)
    assert (found.start.at, found.start.cause) == (day(since) + 1, Cause.LIFECYCLE)
    assert found.start.told == "rule 'tidy' removes replaced versions after 7 days"
    assert certainty(found, since - 1) is Certainty.BEYOND_LIFECYCLE
    assert certainty(found, since + 1) is Certainty.COMPLETE
    assert certainty(found, 1.5) is Certainty.UNPROVEN, "nothing was listed then: less is known"


@given(st.integers(0, 40), st.integers(0, 10 * DAY_MS), st.integers(0, 10 * DAY_MS))
def test_no_version_within_the_guarantee_is_due_for_removal(days: int, age: int, more: int) -> None:
    now = StoreMs(DAY_0 + 60 * DAY_MS + more)
    successor = guaranteed_since(days, now) + age
    due = -(-(successor + days * DAY_MS) // DAY_MS) * DAY_MS
    assert due > now
    latest_that_may_be_gone = guaranteed_since(days, now) - 1
    assert -(-(latest_that_may_be_gone + days * DAY_MS) // DAY_MS) * DAY_MS <= now


def test_a_rule_that_was_lengthened_brings_nothing_back() -> None:
    found = window(versioning(1), rules(1, rule(2)), scan(2), rules(20, rule(30)), scan(40), now=40)
    assert (found.start.at, found.start.cause) == (day(18) + 1, Cause.LIFECYCLE)
    assert found.start.told.endswith("and was there until then")


def test_the_shortest_of_several_rules_counts_and_others_are_no_matter() -> None:
    found = window(
        versioning(1),
        rules(1, rule(30, "slow"), rule(5, "quick", "tmp/"), rule(None, "marks")),
        scan(2),
        scan(49),
    )
    assert (found.start.at, "'quick'" in found.start.told) == (day(45) + 1, True)


def test_a_rule_that_keeps_less_than_the_retention_is_an_alarm_with_both() -> None:
    """Scenario 18."""
    found = window(versioning(1), rules(1, rule(7)), scan(2), retention_days=30)
    assert [(one.alarm, one.told) for one in found.alarms] == [
        (
            Alarm.RETENTION,
            "rule 'tidy' removes replaced versions after 7 days, the retention window is 30 days",
        )
    ]
    assert window(versioning(1), rules(1, rule(30)), scan(2), retention_days=30).alarms == ()


def test_a_shortened_rule_is_an_alarm_as_long_as_it_is_felt() -> None:
    seen = (
        versioning(1),
        rules(1, rule(60)),
        scan(2),
        rules(3, rule(60)),
        rules(20, rule(40)),
        rules(21, rule(40)),
    )
    (warned,) = window(*seen, now=50, retention_days=35).alarms
    assert (warned.alarm, warned.told) == (
        Alarm.RULE_SHORTENED,
        "rule 'tidy' removes replaced versions after 40 days; they were kept 60 days before",
    )
    assert window(*seen, now=81, retention_days=35).alarms == ()


def test_hidden_rules_are_an_alarm() -> None:
    hidden = Observation(day(1), "lifecycle", rules_text(None))
    assert [one.alarm for one in window(versioning(1), hidden, scan(2)).alarms] == [Alarm.RULES_HIDDEN]


# --- gaps ------------------------------------------------------------------------------------------------


def test_events_that_were_lost_leave_a_gap_until_everything_is_listed() -> None:
    """Scenario 9."""
    seen = (versioning(1), scan(2), gap(5, 5 + 1 / 24))
    found = window(*seen)
    assert [certainty(found, at) for at in (4, 5.02, 6)] == [
        Certainty.AFTER_LAST_SCAN,
        Certainty.COVERAGE_GAP,
        Certainty.AFTER_LAST_SCAN,
    ]
    assert "events" in found.verdict(day(5.02)).told
    assert certainty(window(*seen, scan(6)), 5.02) is Certainty.COMPLETE


# --- all of it -------------------------------------------------------------------------------------------

observed = st.lists(
    st.one_of(
        st.builds(
            versioning, st.integers(0, 40), st.sampled_from(("Enabled", "Enabled", "Suspended", "Off"))
        ),
        st.builds(lambda at, keep: rules(at, rule(keep)), st.integers(0, 40), st.integers(1, 30)),
        st.builds(scan, st.integers(0, 40)),
        st.builds(lambda at, back: gap(at - back, at), st.integers(0, 40), st.integers(0, 9)),
    ),
    max_size=12,
)


@given(observed, st.integers(0, 45))
def test_a_moment_is_reachable_exactly_when_its_verdict_is_complete(
    seen: Sequence[Observation], at: int
) -> None:
    found = window(*seen)
    for moment in (day(at), StoreMs(day(at) + 1), StoreMs(day(at) - 1)):
        is_inside = any(since <= moment <= until for since, until in found.reachable)
        assert (found.verdict(moment).certainty is Certainty.COMPLETE) is is_inside
        before, after = found.nearest(moment)
        if is_inside:
            assert (before, after) == (moment, moment)
        else:
            for near in (before, after):
                assert near is None or found.verdict(near).certainty is Certainty.COMPLETE
            assert before is None or before < moment
            assert after is None or after > moment
    for bound in (*found.starts, *found.ends):
        assert bound.told


@given(observed)
def test_asking_more_often_changes_nothing_while_the_answers_are_the_same(
    seen: Sequence[Observation],
) -> None:
    ordered = sorted(seen, key=lambda one: one.at)
    more = list(ordered)
    for kind in ("versioning", "lifecycle"):
        asked = [one for one in ordered if one.kind == kind]
        for one, after in pairwise(asked):
            if one.value == after.value:
                between = range(one.at, after.at, DAY_MS // 7)
                more += [Observation(StoreMs(at), kind, one.value) for at in between if at != one.at]
    assert window(*more, retention_days=9) == window(*ordered, retention_days=9)


@given(observed)
def test_the_window_never_grows_backwards_when_more_time_passes(seen: Sequence[Observation]) -> None:
    assert window(*seen, now=60).start.at >= window(*seen, now=50).start.at


def test_values_of_observations_survive_their_text() -> None:
    several = (rule(7), LifecycleRule("x", "p/", None, 3, True, True))
    assert parse_rules(rules_text(several)) == several
    assert parse_rules(rules_text(None)) is None
    assert parse_scan(scan_text("a/", keys=1, entries=2)) == "a/"
    assert parse_gap(gap_text(StoreMs(7))) == 7


@pytest.mark.parametrize("value", ["[]", "{}", '{"since":"x"}', "no json"])
def test_values_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_gap(value)
    with pytest.raises(ValueError):
        parse_scan(value)


def test_a_rule_with_unknown_members_is_refused() -> None:
    with pytest.raises(ValueError, match="lifecycle"):
        parse_rules('[{"surprise":1}]')
