"""A hundred SIGKILLs of the server under load, twenty on each major: nothing is missing or different."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.integration.scene import Scenes
from tests.integration.test_kills import kill_at_random

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

KILLS = 20


def test_servers_killed_at_random_lose_nothing(
    scenes: Scenes, major: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    compared = kill_at_random(scenes, KILLS, random.Random(f"{seed} {major}"))
    record_property("kills", KILLS)
    record_property("files compared with PostgreSQL's own", compared)
