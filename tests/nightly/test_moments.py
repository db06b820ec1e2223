"""Many random moments of each major: every restore is exact, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.integration.moments import live_through
from tests.integration.scene import Scenes, instant
from walarchiver.core.moment import CommitTime

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

MOMENTS = 50
COMMITS = 3000
SECOND_US = 1_000_000


def test_restores_to_random_moments_are_exact(
    scenes: Scenes, major: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Half of them whole seconds, half of them microseconds; two base backups to begin at."""
    chance = random.Random(f"{seed} {major}")
    history = live_through(scenes, major, seed=chance.getrandbits(32), backups=2, commits=COMMITS)
    history.scene.archive_all()
    (first, *_) = history.scene.json("backups")["backups"]
    usable = [time for time in history.oracle.times.values() if time > instant(first["stop_time"])]
    began, ended = min(usable), max(usable)
    seconds = range(began // SECOND_US + 1, ended // SECOND_US + 1)
    disputed = 0
    for number in range(MOMENTS):
        exact = chance.choice(seconds) * SECOND_US if number % 2 else chance.randint(began, ended)
        disputed += history.check(CommitTime(exact))
    assert history.restored == MOMENTS
    record_property("restores", history.restored)
    record_property("restores between commits whose times ran backwards", disputed)
    record_property("seconds of history", (ended - began) // SECOND_US)
    record_property("commits known to the oracle", len(history.oracle.done))
