"""What the nightly tests share: every supported major, and a seed that the runner prints and takes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.integration.conftest import scenes as scenes
from tests.matrix.conftest import major as major

SEED_VARIABLE = "WALARCHIVER_NIGHTLY_SEED"


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    """Chance of this run: the variable's value, or a new one; it is in the report either way."""
    given = os.environ.get(SEED_VARIABLE)
    number = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"{SEED_VARIABLE}={number}")
    record_property("seed", number)
    return number
