"""Many targets of every kind, on each major: what was planned is what PostgreSQL did."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.integration.planned import archived, play
from tests.integration.scene import Scenes

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

TARGETS = 120
COMMITS = 2500


def test_every_plan_is_what_postgresql_does(
    scenes: Scenes, major: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(f"{seed} {major}")
    history = archived(scenes, major, seed=chance.getrandbits(32), commits=COMMITS)
    assert play(history, chance, TARGETS) == TARGETS
    record_property("recoveries", TARGETS)
