"""Plans are what PostgreSQL does also where its clock was set forwards and backwards by seconds and days."""

from __future__ import annotations

import random

import pytest

from tests.integration.scene import Scenes
from tests.integration.stepped import stepped
from tests.integration.steppedplans import play
from tests.kit.stepclock import StepClock

TARGETS = 8
"""Some of each kind; many more on every major run at night."""
SEED = 1_184


@pytest.mark.nightly
@pytest.mark.parametrize("major", [17])
def test_plans_hold_under_a_clock_that_is_stepped(scenes: Scenes, step_clock: StepClock, major: int) -> None:
    history = stepped(scenes, step_clock, major, seed=SEED, rounds=12)
    counted = play(history, random.Random(SEED), TARGETS)
    assert counted.recoveries == TARGETS
    assert counted.disputed
    assert counted.native
