"""The table of scenarios is whole, and every test it names exists."""

from __future__ import annotations

import pytest

from tests.nightly.named import exists
from tests.nightly.scenarios import SCENARIOS, Scenario

NOT_BUILT = {19}


def test_the_scenarios_are_numbered_from_1_to_20() -> None:
    assert [one.number for one in SCENARIOS] == list(range(1, 21))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.number))
def test_every_scenario_has_tests_that_exist_or_says_why_not(scenario: Scenario) -> None:
    assert [node for node in scenario.tests if not exists(node)] == []
    assert bool(scenario.tests) == (scenario.number not in NOT_BUILT)
    assert scenario.tests or scenario.left_out


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert not exists("tests/nightly/test_scenarios.py::test_no_such_thing")
    assert not exists("tests/nightly/no_such_file.py::test_a_test_that_is_not_there_is_noticed")
    assert exists("tests/nightly/test_scenarios.py::test_a_test_that_is_not_there_is_noticed[x]")
