"""Golden files: compared by default, written anew with
`pytest tests/restore_core --regenerate-golden` and then reviewed as prose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.restore_core import synthetic

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the golden file of that name."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        # The option is unknown when a run starts above this folder; then files are compared.
        if request.config.getoption("--regenerate-golden", default=False):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{name} is missing: run with --regenerate-golden and review it"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="module", params=["every scan", "index"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """The planner asks for every scan, and has the catalog's index: the answers are the same."""
    synthetic.INDEXED = request.param == "index"
    yield
    synthetic.INDEXED = False
