"""How hard WAL is compressed: it hurries only when compressing keeps the archive from catching up."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walarchiver.core.effort import (
    LARGE_FILES,
    LITTLE_FILES,
    WINDOW_S,
    BacklogSample,
    Effort,
    Pace,
    next_pace,
)

STEP_S = 10.0


def play(backlog: list[int], *, busy: float = 0.8, pace: Pace | None = None) -> list[Effort]:
    """A sample every ten seconds, with two workers busy that much."""
    pace = pace or Pace()
    begun = len(pace.samples)
    found = []
    for index, waiting in enumerate(backlog, begun):
        sample = BacklogSample(index * STEP_S, waiting, index * STEP_S * 2 * busy)
        pace = next_pace(pace, sample, workers=2)
        found.append(pace.effort)
    return found


GROWING = [LARGE_FILES + 3 * step for step in range(30)]


def test_an_archive_that_falls_behind_for_a_whole_window_hurries() -> None:
    efforts = play(GROWING)
    first = efforts.index(Effort.HURRIED)
    assert first * STEP_S == WINDOW_S
    assert set(efforts[first:]) == {Effort.HURRIED}


@pytest.mark.parametrize(
    ("backlog", "busy"),
    [
        pytest.param([5000 - 3 * step for step in range(40)], 0.8, id="large, and shrinking"),
        pytest.param([5000] * 40, 0.8, id="large, and staying"),
        pytest.param(list(range(40)), 0.8, id="growing, and small"),
        pytest.param(GROWING, 0.1, id="the store is what is slow"),
        pytest.param(GROWING, 0.0, id="the store does not answer"),
        pytest.param([0, 500] * 20, 0.8, id="coming and going"),
    ],
)
def test_nothing_else_makes_it_hurry(backlog: list[int], busy: float) -> None:
    assert set(play(backlog, busy=busy)) == {Effort.NORMAL}


def test_it_goes_on_hurrying_until_little_is_left_and_then_stops() -> None:
    shrinking = list(range(GROWING[-1], LITTLE_FILES, -10))
    efforts = play([*GROWING, *shrinking, *[LITTLE_FILES] * 3])
    assert set(efforts[len(GROWING) : -3]) == {Effort.HURRIED}
    assert efforts[-1] is Effort.NORMAL


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 500), st.floats(0, 200)),
        max_size=60,
    )
)
def test_it_never_changes_twice_within_a_window_and_remembers_no_more_than_one(
    steps: list[tuple[float, int, float]],
) -> None:
    pace, at_s, sealing_s, changes = Pace(), 0.0, 0.0, []
    for passed_s, waiting, sealed_s in steps:
        at_s, sealing_s = at_s + passed_s, sealing_s + sealed_s
        before = pace.effort
        pace = next_pace(pace, BacklogSample(at_s, waiting, sealing_s), workers=2)
        if pace.effort is not before:
            changes.append(at_s)
        times = [one.at_s for one in pace.samples]
        assert times == sorted(set(times))
        assert sum(time <= at_s - WINDOW_S for time in times) <= 1
    assert all(later - sooner >= WINDOW_S for sooner, later in pairwise(changes))
