"""No regression unseen: what a byte costs in instructions, beside what was recorded."""

from __future__ import annotations

import pytest

from benchmarks.instructions import NotMeasurable, measure, too_many
from tests.hook.conftest import REPOSITORY

EXTENSION = REPOSITORY / "walarchiver" / "core" / "_walskim.abi3.so"


def test_scan_and_seal_execute_no_more_instructions_per_byte_than_recorded() -> None:
    """Where more is wanted: say why, and `./dev shell python benchmarks/instructions.py --write`."""
    if not EXTENSION.exists():
        pytest.skip("the compiled part is not beside its source")
    try:
        figures = measure(EXTENSION, REPOSITORY)
    except NotMeasurable as reason:
        pytest.skip(f"instructions cannot be counted here: {reason}")
    assert too_many(figures) == []
