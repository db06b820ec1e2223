"""What plans promise is what PostgreSQL does: stop, transactions and rows, for every kind of target."""

from __future__ import annotations

import random

import pytest

from tests.integration.planned import archived, play
from tests.integration.scene import Scenes

TARGETS = 60
"""Some of each kind; many more on every major run at night."""
SEED = 4_640


@pytest.mark.parametrize("major", [18])
def test_every_plan_is_what_postgresql_does(scenes: Scenes, major: int) -> None:
    history = archived(scenes, major, seed=SEED, commits=600)
    assert play(history, random.Random(f"{SEED} {major}"), TARGETS) == TARGETS
