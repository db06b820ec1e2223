"""The matrix: every supported major version, timeline and shape of cluster, each as real processes."""

from __future__ import annotations

import pytest

from tests.integration.conftest import scenes as scenes

MAJORS = (14, 15, 16, 17, 18)


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    """Every major version that is supported."""
    return int(request.param)
