"""The bracket between two clocks, and what it is good for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.moment import CommitTime, StoreTime
from walarchiver.core.skew import SECOND_US, Skew, Tie, near, skew_of, store_time_of

NOON = 1_795_000_000_000_000


def tie(server_us: int, *, skew_us: int, before_us: int = 4000, after_us: int = 6000) -> Tie:
    """What a store whose clock is `skew_us` ahead answers to a write at `server_us`."""
    shown = (server_us + skew_us) // SECOND_US * SECOND_US
    return Tie(CommitTime(server_us - before_us), CommitTime(server_us + after_us), StoreTime(shown))


@given(
    st.integers(-10 * SECOND_US, 10 * SECOND_US),
    st.lists(st.integers(0, 3600 * SECOND_US), min_size=1, max_size=12),
    st.integers(0, 2 * SECOND_US),
    st.integers(0, 2 * SECOND_US),
)
def test_the_true_difference_lies_in_every_bracket_and_in_all_together(
    skew_us: int, offsets: list[int], before_us: int, after_us: int
) -> None:
    ties = [tie(NOON + each, skew_us=skew_us, before_us=before_us, after_us=after_us) for each in offsets]
    found = skew_of(ties)
    assert found is not None
    assert not found.contradictory
    assert found.low <= skew_us <= found.high
    assert all(found.high - found.low <= each.skew.high - each.skew.low for each in ties)


def test_without_ties_nothing_is_known() -> None:
    assert skew_of([]) is None
    assert store_time_of(CommitTime(NOON), None) == NOON


def test_a_clock_that_was_stepped_is_told_and_the_hull_counts() -> None:
    found = skew_of([tie(NOON, skew_us=0), tie(NOON + 60 * SECOND_US, skew_us=7 * SECOND_US)])
    assert found is not None
    assert found.contradictory
    assert found.alarming
    assert found.low <= 0
    assert found.high >= 7 * SECOND_US


def test_clocks_that_may_agree_leave_a_time_as_it_is() -> None:
    assert store_time_of(CommitTime(NOON), Skew(-400_000, 600_000)) == NOON
    assert not Skew(-400_000, 600_000).excludes_zero


def test_a_clock_that_is_certainly_ahead_shifts_the_time_by_what_is_certain() -> None:
    assert store_time_of(CommitTime(NOON), Skew(3_000_000, 4_000_000)) == NOON + 3_000_000
    assert store_time_of(CommitTime(NOON), Skew(-4_000_000, -3_000_000)) == NOON - 3_000_000
    assert Skew(3_000_000, 4_000_000).alarming
    assert not Skew(1_500_000, 2_500_000).alarming


def test_only_ties_near_the_moment_count() -> None:
    ties = [tie(NOON + minute * 60 * SECOND_US, skew_us=0) for minute in range(-60, 60)]
    chosen = near(ties, CommitTime(NOON), within_us=600 * SECOND_US)
    assert 19 <= len(chosen) <= 21
