"""A clock that is set forwards and backwards, on each major: what was planned is what PostgreSQL did."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict

import pytest

from tests.integration.scene import Scenes
from tests.integration.stepped import stepped
from tests.integration.steppedplans import play
from tests.kit.stepclock import StepClock

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

TARGETS = 80
ROUNDS = 30


def test_plans_hold_under_a_clock_that_is_stepped(
    scenes: Scenes,
    step_clock: StepClock,
    major: int,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(f"{seed} {major} clocks")
    history = stepped(scenes, step_clock, major, seed=chance.getrandbits(32), rounds=ROUNDS)
    record_property("clock steps", history.steps)
    counted = play(history, chance, TARGETS)
    assert counted.recoveries == TARGETS
    for name, amount in asdict(counted).items():
        record_property(f"stepped: {name}", amount)
